"""A policy's signatures, and its way into the ledger, which records the one that holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privacy.errors import PolicyError, PolicyRefusal
from privacy.ledger import Ledger
from privacy.policy.rules import SitePolicy

_DOMAIN = b"mmmed site policy 1\n"


@dataclass(frozen=True)
class SignedPolicy:
    """A policy whose signatures were checked.

    Attributes:
        policy: the rules.
        text: the file's exact text.
        officer: public key of the officer who signed it, hexadecimal.
        countersigned: whether a second officer signed it too, so that it may widen the one before.
    """

    policy: SitePolicy
    text: str
    officer: str
    countersigned: bool


def sign_policy(path: Path, officer: Ed25519PrivateKey, second: Ed25519PrivateKey | None = None) -> Path:
    """Write `<path>.sig` with the officer's signature, and a second officer's if given; return its path.

    Raises:
        PolicyError: the policy cannot be read, or both officers are one.
    """
    try:
        text = path.read_bytes()
        SitePolicy.parse(text.decode())
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path}: cannot be read: {error}.") from None
    if second is not None and second.public_key() == officer.public_key():
        raise PolicyError("The second officer's key must be another than the privacy officer's.")
    signatures = {"officer": officer.sign(_DOMAIN + text).hex()}
    if second is not None:
        signatures["second"] = second.sign(_DOMAIN + text).hex()
    signed = path.with_name(path.name + ".sig")
    signed.write_text(json.dumps(signatures))
    return signed


def load_policy(
    path: Path, officer: Ed25519PublicKey, second: Ed25519PublicKey | None = None
) -> SignedPolicy:
    """Read a policy and check its signatures.

    Args:
        path: the policy; its signatures are in `<path>.sig`.
        officer: the privacy officer's public key.
        second: the second officer's, if the site has one.

    Raises:
        PolicyError: a file is missing or malformed, or a signature does not hold.
    """
    signed = path.with_name(path.name + ".sig")
    try:
        text, signatures = path.read_bytes(), json.loads(signed.read_text())
        officers = {name: bytes.fromhex(value) for name, value in signatures.items()}
    except OSError as error:
        raise PolicyError(f"The site policy cannot be read: {error}.") from None
    except (ValueError, AttributeError, TypeError):
        raise PolicyError(f"{signed} holds no signatures: sign the policy again.") from None
    if "officer" not in officers or not _holds(officer, officers["officer"], text):
        raise PolicyError(
            f"{path} is not signed by the privacy officer: it was edited, or signed by another key."
        )
    countersigned = "second" in officers
    if countersigned and (second is None or not _holds(second, officers["second"], text)):
        raise PolicyError(f"{path} has a second signature that does not hold.")
    if countersigned and second is not None and second.public_bytes_raw() == officer.public_bytes_raw():
        raise PolicyError("The second officer's key must be another than the privacy officer's.")
    signer = officer.public_bytes_raw().hex()
    return SignedPolicy(SitePolicy.parse(text.decode()), text.decode(), signer, countersigned)


def check_successor(ledger: Ledger, signed: SignedPolicy) -> None:
    """Raise PolicyRefusal if `signed` needs a second signature, which it lacks, to follow the recorded policy.

    Raises:
        PolicyRefusal: it widens a rule of the recorded policy, or the recorded limit, or another officer signed it.
    """
    before, officer = ledger.policy, ledger.officer
    if signed.countersigned or (before, officer) == (signed.text, signed.officer):
        return
    if before is not None:
        if officer != signed.officer:
            raise PolicyRefusal("officer", "another key signed than before: a second officer must sign too.")
        if widened := SitePolicy.parse(before).widened_by(signed.policy):
            raise PolicyRefusal(
                widened[0], f"{', '.join(widened)} would be widened: a second officer must sign too."
            )
    held, asked = ledger.limit, signed.policy.limit
    if asked.epsilon > held.epsilon or asked.delta > held.delta:
        raise PolicyRefusal(
            "limit", f"the ledger's limit {held} would be widened: a second officer must sign too."
        )


def adopt_policy(ledger: Ledger, signed: SignedPolicy) -> SitePolicy:
    """Make `signed` the policy that the ledger records and its limit the one that holds.

    Raises:
        PolicyRefusal: see `check_successor`.
    """
    check_successor(ledger, signed)
    before = ledger.policy
    if (before, ledger.officer) != (signed.text, signed.officer):
        ledger.record_policy(
            signed.text,
            signed.policy.limit,
            officer=signed.officer,
            replaces=before,
            countersigned=signed.countersigned,
            keys=signed.policy.pseudonyms,
        )
    return signed.policy


def open_ledger(path: Path, key: Ed25519PrivateKey, signed: SignedPolicy) -> Ledger:
    """Open a site's ledger under its policy; at the first start create it with the policy's limit.

    Raises:
        PolicyRefusal: see `adopt_policy`.
        LedgerError: the ledger cannot be trusted, read or written.
    """
    if not path.exists():
        Ledger.open(path, key, limit=signed.policy.limit).close()
    ledger = Ledger.inspect(path, key)
    try:
        adopt_policy(ledger, signed)
    except BaseException:
        ledger.close()
        raise
    return ledger


def _holds(key: Ed25519PublicKey, signature: bytes, text: bytes) -> bool:
    try:
        key.verify(signature, _DOMAIN + text)
    except InvalidSignature:
        return False
    return True
