"""The newest entry that each site's ledger had, kept outside the site, so that an old copy of a ledger shows.

A site signs its receipt with every answer; it gets it back with the next request, of this run or a later one, and
refuses if its ledger is older or another. The file lies beside the run folders, one entry a node.
"""

from __future__ import annotations

import json
from pathlib import Path

from mmmed.files import write_atomic

FILE = "ledger-receipts.json"
_LONGEST = 1000  # characters


class Receipts:
    """The newest ledger receipt of each node, on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            stored = {}
        self._known: dict[str, str] = stored if isinstance(stored, dict) else {}

    def of(self, node: int) -> str:
        """The receipt of a node, "" if there is none."""
        return str(self._known.get(str(node), ""))

    def keep(self, node: int, receipt: object) -> None:
        """Store the receipt that came with a node's answer. Only the site itself can check it."""
        if isinstance(receipt, str) and 0 < len(receipt) <= _LONGEST and receipt != self.of(node):
            self._known[str(node)] = receipt
            write_atomic(self._path, json.dumps(self._known, sort_keys=True))
