"""What is done already, so that a second run goes on where the first was killed.

Lines of JSON: an item is ``begun``, then ``done`` with what was written, or ``failed`` with the reason. Items
that were begun and never finished met a crash; they are tried again one at a time (``alone``), and one that
is found unfinished after that has killed its reader and is refused.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import TracebackType

from mmmed.ingest.items import Written

VERSION = 5  # raise it when items are made differently: everything is made again


class Journal:
    """The journal of one data set; used by one process at a time, by any of its threads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.done: dict[str, Written] = {}
        self._states: dict[str, str] = {}
        self._lock = threading.Lock()
        lines = path.read_text().splitlines() if path.exists() else []
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:  # the line that was being written when the run was killed
                continue
            if entry.get("version") == VERSION:
                self._states[entry["item"]] = entry["state"]
                if entry["state"] == "done":
                    self.done[entry["item"]] = Written.from_json(entry["written"])
                else:  # what was made of it before is damaged, or gone
                    self.done.pop(entry["item"], None)
        self._file = path.open("a")
        if lines:
            self._file.write("\n")  # ends a line cut by a kill

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def is_suspect(self, item: str) -> bool:
        """Whether a run died while it worked on this item and others."""
        return self._states.get(item) == "begun"

    def is_deadly(self, item: str) -> bool:
        """Whether a run died while it worked on this item alone."""
        return self._states.get(item) == "alone"

    def begin(self, item: str) -> None:
        self.done.pop(item, None)
        self._write(item, "alone" if self.is_suspect(item) else "begun")

    def finish(self, item: str, written: Written | None) -> None:
        """Record the result of an item; ``None`` is a failure, which the next run tries again."""
        if written is None:
            self._write(item, "failed")
        else:
            self._write(item, "done", written=written.as_json())
            self.done[item] = written

    def _write(self, item: str, state: str, **values: object) -> None:
        with self._lock:
            self._states[item] = state
            self._file.write(json.dumps({"version": VERSION, "item": item, "state": state, **values}) + "\n")
            self._file.flush()
