"""Who is who: X25519 keys made for one run (RFC 7748), each signed under its site's Ed25519 key with the terms.

The coordinator carries all keys and may try to put in its own. So a site believes a key only under a signature by the
public key that its own officer gave for that name, over the digest of the terms: a key of another run, of other
terms or under another name does not verify.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.errors import SecureSumRefusal
from privacy.secure_sum.terms import Terms

_KEY_LABEL = b"mmmed secure sum: key 1\0"
_PAIR_LABEL = b"mmmed secure sum: pair 1\0"
_BUNDLE_LABEL = b"mmmed secure sum: bundle 1\0"
_FIELD_PRIME = (1 << 255) - 19


@dataclass(frozen=True)
class Introduction:
    """A site's key of this run.

    Args:
        name: the site, as on the roster.
        key: X25519 public key, 64 hexadecimal digits.
        signature: by the site's Ed25519 key, over terms, name and key; 128 hexadecimal digits.
    """

    name: str
    key: str
    signature: str


class Bundle:
    """The keys of all sites of a run, checked as one site sees them.

    Args:
        terms: the terms that every key has to be signed with.
        introductions: all of them, in any order.

    Attributes:
        names: the sites, sorted.
        content: canonical bytes.
        digest: SHA-256 of those.

    Raises:
        SecureSumRefusal: a name is not on the roster or comes twice, a key is not signed by its site with these
            terms, is no proper key, or two sites have one.
    """

    def __init__(self, terms: Terms, introductions: Sequence[Introduction]) -> None:
        roster = dict(terms.roster)
        self._keys: dict[str, bytes] = {}
        for one in introductions:
            if one.name not in roster:
                raise SecureSumRefusal(f"{one.name!r:.120} is not on the roster of this run.")
            if one.name in self._keys:
                raise SecureSumRefusal(f"Two keys came for {one.name!r}. Expected one a site.")
            key = _proper(one)
            if key in self._keys.values():
                raise SecureSumRefusal(
                    f"The key of {one.name!r} is another site's. Expected every site's own."
                )
            _verify(terms, one, key, roster[one.name])
            self._keys[one.name] = key
        ordered = sorted(introductions, key=lambda one: one.name)
        self.names = tuple(one.name for one in ordered)
        self.content = write_introductions(ordered)
        self.digest = hashlib.sha256(_BUNDLE_LABEL + terms.digest + self.content).digest()

    @property
    def keys(self) -> Mapping[str, bytes]:
        """Name -> X25519 public key, 32 bytes."""
        return self._keys


def read_bundle(terms: Terms, content: bytes) -> Bundle:
    """A bundle of its canonical bytes. Raises SecureSumRefusal where they are anything else."""
    return Bundle(terms, read_introductions(content))


def read_introductions(content: bytes) -> list[Introduction]:
    """Introductions as `Bundle.content` holds them; none of them is checked."""
    try:
        return [Introduction(*map(str, one)) for one in json.loads(content)]
    except (ValueError, TypeError, RecursionError):
        raise SecureSumRefusal("The bundle of keys is not the canonical JSON of one.") from None


def write_introductions(introductions: Sequence[Introduction]) -> bytes:
    """Introductions as bytes that `read_introductions` reads: JSON in ASCII without spaces."""
    table = [[one.name, one.key, one.signature] for one in introductions]
    return json.dumps(table, separators=(",", ":")).encode("ascii")


def introduce(terms: Terms, name: str, identity: Ed25519PrivateKey, secret: X25519PrivateKey) -> Introduction:
    """Sign a site's key of the run under the site's own key.

    Args:
        terms: of the run; the signature holds for these alone.
        name: the site's, as on the roster.
        identity: the site's own key, which the roster names.
        secret: the site's key of this run.
    """
    key = secret.public_key().public_bytes_raw()
    return Introduction(name, key.hex(), identity.sign(_signed(terms, name, key)).hex())


def pair_key(terms: Terms, secret: X25519PrivateKey, peer: bytes) -> bytes:
    """What two sites share in this run, 32 bytes: HKDF-SHA256 (RFC 5869) of their X25519 secret, terms and both keys.

    Raises:
        SecureSumRefusal: the peer's key is a point of low order, with which the secret would be known to all.
    """
    own = secret.public_key().public_bytes_raw()
    try:
        shared = secret.exchange(X25519PublicKey.from_public_bytes(peer))
    except ValueError:
        raise SecureSumRefusal(
            "A key is a point of low order: whatever is masked with it is not masked."
        ) from None
    info = _PAIR_LABEL + min(own, peer) + max(own, peer)
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=terms.digest, info=info).derive(shared)


def _signed(terms: Terms, name: str, key: bytes) -> bytes:
    text = name.encode()
    return _KEY_LABEL + terms.digest + len(text).to_bytes(2, "big") + text + key


def _proper(one: Introduction) -> bytes:
    """The key's bytes: canonical, so that one point has one form, and of full order."""
    try:
        key = bytes.fromhex(one.key)
    except ValueError:
        key = b""
    if len(key) != 32 or one.key != key.hex() or int.from_bytes(key, "little") >= _FIELD_PRIME:
        raise SecureSumRefusal(
            f"The key of {one.name!r} is not an X25519 public key of 64 hexadecimal digits."
        )
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(key))
    except ValueError:
        raise SecureSumRefusal(
            f"The key of {one.name!r} is a point of low order: whatever is masked with it is not masked."
        ) from None
    return key


def _verify(terms: Terms, one: Introduction, key: bytes, identity: str) -> None:
    try:
        signature = bytes.fromhex(one.signature)
        if signature.hex() != one.signature:
            raise ValueError("not canonical")
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(identity)).verify(
            signature, _signed(terms, one.name, key)
        )
    except (ValueError, InvalidSignature):
        raise SecureSumRefusal(
            f"The key of {one.name!r} is not signed by that site for this run. Somebody put in another, or the terms "
            "differ."
        ) from None
