"""What makes a ledger's entries a chain: canonical text, hashes, and what the site's key signs.

    hash_n = SHA-256(domain | link_{n-1} | body_n)      signature_n = Ed25519(hash_n)
    link_n = SHA-256(hash_n | signature_n)

A link covers every body and signature before it, so the signature of the newest entry vouches for all.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privacy.errors import LedgerError

ROOT = bytes(32)
_DOMAIN = b"mmmed ledger 1"


@dataclass(frozen=True)
class Head:
    """The newest entry: its number and its link. Kept elsewhere, it is a receipt for all entries up to it."""

    seq: int
    link: bytes

    def __str__(self) -> str:
        """Text that `parse` reads: the number, a colon, the link in hexadecimal."""
        return f"{self.seq}:{self.link.hex()}"

    @staticmethod
    def parse(text: str) -> Head:
        """Read what `str` wrote. Raises LedgerError for anything else."""
        seq, _, link = text.partition(":")
        try:
            head = Head(int(seq), bytes.fromhex(link))
        except ValueError:
            head = Head(0, b"")
        if head.seq < 1 or len(head.link) != len(ROOT):
            raise LedgerError(
                f"A ledger's head is its number, a colon and {2 * len(ROOT)} hexadecimal digits. Found {text!r}."
            )
        return head


@dataclass(frozen=True)
class Receipt:
    """A head, signed by the site's key, for a peer to keep and to hand back. A peer cannot make one up."""

    head: Head
    signature: bytes

    def to_json(self) -> str:
        """Text that `from_json` reads."""
        return json.dumps([self.head.seq, self.head.link.hex(), self.signature.hex()])

    @staticmethod
    def from_json(text: str) -> Receipt:
        """Read what `to_json` wrote. Raises LedgerError for anything else."""
        try:
            seq, link, signature = json.loads(text)
            return Receipt(Head(int(seq), bytes.fromhex(link)), bytes.fromhex(signature))
        except (ValueError, TypeError) as error:
            raise LedgerError(f"A ledger receipt is not readable: {error}.") from None


def canonical(value: Any) -> bytes:
    """Serialise a JSON value in the only form that is signed: sorted keys, no spaces, exact floats."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def entry_hash(link: bytes, body: bytes) -> bytes:
    """SHA-256 of an entry and the link before it, which the entry's signature signs."""
    return hashlib.sha256(_DOMAIN + link + body).digest()


def next_link(digest: bytes, signature: bytes) -> bytes:
    """SHA-256 of an entry's hash and signature: the link that the following entry builds on."""
    return hashlib.sha256(digest + signature).digest()


def check_signature(key: Ed25519PublicKey, signature: bytes, message: bytes, what: str) -> None:
    """Check an Ed25519 signature (RFC 8032).

    Args:
        key: the site's public key.
        signature: 64 bytes.
        message: what was signed.
        what: a name for it, with which the error begins.

    Raises:
        LedgerError: the signature is not the key's over `message`.
    """
    try:
        key.verify(signature, message)
    except InvalidSignature:
        raise LedgerError(
            f"{what} is not signed by this site's key: it was edited, or the key is not its own."
        ) from None


def receipt_for(head: Head, key: Ed25519PrivateKey) -> Receipt:
    """Sign a head with the site's key, as a receipt for a peer."""
    return Receipt(head, key.sign(_receipt_message(head)))


def receipt_holds(receipt: Receipt, key: Ed25519PublicKey) -> bool:
    """Whether the key's owner signed the receipt."""
    try:
        key.verify(receipt.signature, _receipt_message(receipt.head))
    except (InvalidSignature, OverflowError):
        return False
    return True


def _receipt_message(head: Head) -> bytes:
    return b"mmmed ledger receipt 1" + head.seq.to_bytes(8, "big", signed=True) + head.link
