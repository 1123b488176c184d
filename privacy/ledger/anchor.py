"""The anchor: the newest link of a ledger, signed, in a small file beside it.

A ledger file restored from a backup is older than its anchor, and so refused. The anchor is written after the entry is
on disk, so that it is never newer than the ledger; after a power cut it may be a little older, which refuses nothing.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.disk import write_durable
from privacy.errors import LedgerError
from privacy.ledger.links import Head, canonical, check_signature

_BYTES = 512  # one sector, overwritten in place: old or new, never half


class Anchor:
    """The anchor at `path`, signed by the site's key."""

    def __init__(self, path: Path, key: Ed25519PrivateKey) -> None:
        self.path, self._key = path, key

    def read(self) -> Head | None:
        """The head it holds; None if there is no anchor. Raises LedgerError if it is not readable or not signed."""
        if not self.path.exists():
            return None
        for attempt in range(3):  # another process may be writing it at this moment
            try:
                return self._parse(self.path.read_bytes())
            except LedgerError:
                if attempt == 2:
                    raise
                time.sleep(0.02)
        return None

    def write(self, head: Head) -> None:
        """Store `head` in the anchor, unless the anchor holds the same or a newer one."""
        stored = self.read()
        if stored and stored.seq >= head.seq:
            return
        value = {
            "seq": head.seq,
            "link": head.link.hex(),
            "signature": self._key.sign(_message(head)).hex(),
        }
        content = canonical(value).ljust(_BYTES)
        if stored is None:
            write_durable(self.path, content)  # entries with half an anchor, or none, are refused for good
        else:
            with self.path.open("r+b", buffering=0) as file:
                file.write(content)

    def _parse(self, text: bytes) -> Head:
        try:
            value = json.loads(text)
            head = Head(value["seq"], bytes.fromhex(value["link"]))
            signature = bytes.fromhex(value["signature"])
        except (ValueError, KeyError, TypeError):
            raise LedgerError(f"The anchor {self.path} is not readable.") from None
        check_signature(self._key.public_key(), signature, _message(head), f"The anchor {self.path}")
        return head


def _message(head: Head) -> bytes:
    return b"mmmed ledger anchor 1" + head.seq.to_bytes(8, "big") + head.link
