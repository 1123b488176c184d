"""A ledger as plain JSON, that anyone who has the site's public key can check without the site."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from privacy.errors import LedgerError
from privacy.ledger.links import ROOT, Head, canonical, check_signature, entry_hash, next_link
from privacy.ledger.state import State


def export(entries: Iterable[tuple[int, bytes, bytes]]) -> list[dict[str, Any]]:
    """Entries (number, body, signature) as JSON objects."""
    return [
        {"seq": seq, "body": json.loads(body), "signature": signature.hex()}
        for seq, body, signature in entries
    ]


def verify_export(
    entries: Sequence[dict[str, Any]], key: Ed25519PublicKey, receipts: Sequence[Head] = ()
) -> State:
    """Check exported entries against a site's public key; return what they add up to.

    Raises:
        LedgerError: an entry was edited, removed or inserted, or one of `receipts` is not met. (Entries missing at
            the end show only against a later receipt.)
    """
    if not isinstance(entries, list) or not entries:
        raise LedgerError("Not a ledger's export: expected a list of entries.")
    link, digest, signature = ROOT, b"", b""
    links: dict[int, bytes] = {}
    for seq, entry in enumerate(entries, start=1):
        try:
            number, body, signature = (
                entry["seq"],
                canonical(entry["body"]),
                bytes.fromhex(entry["signature"]),
            )
        except (KeyError, TypeError, ValueError):
            raise LedgerError(f"Entry {seq} of the export is not readable.") from None
        if number != seq:
            raise LedgerError(f"Entry {seq} of the export is missing.")
        digest = entry_hash(link, body)
        link = links[seq] = next_link(digest, signature)
    check_signature(key, signature, digest, "The export")
    for head in receipts:
        if links.get(head.seq) != head.link:
            raise LedgerError(
                f"The export does not contain entry {head.seq} as it was: it was changed, or is older."
            )
    state = State()
    for entry in entries:
        state.apply(entry["body"])
    return state
