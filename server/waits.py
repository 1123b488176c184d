"""Which sites a round waits for until somebody there decides: a small file in the run folder while there are any."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from mmmed.federation.protocol import meaning
from mmmed.files import write_atomic
from server.events import Event, RoundFinished, SiteReplied, SiteWaits

_FILE = "waits.json"


class Waits:
    """Follows a run's events and keeps the file."""

    def __init__(self, run: Path) -> None:
        self._path = run / _FILE
        self._waiting: dict[str, str] = {}
        self._path.unlink(missing_ok=True)  # of a process that was killed

    def follow(self, event: Event) -> None:
        """Take in what happened."""
        before = dict(self._waiting)
        match event:
            case SiteWaits(site=site, code=code):
                self._waiting[site] = code
            case SiteReplied(site=site):
                self._waiting.pop(site, None)
            case RoundFinished():
                self._waiting.clear()
        if self._waiting != before:
            with suppress(OSError):  # a full disk ends a run at its checkpoint, which says so
                if self._waiting:
                    write_atomic(self._path, json.dumps(self._waiting), durable=False)
                else:
                    self._path.unlink(missing_ok=True)


def waits_of(run: Path) -> dict[str, str]:
    """What each site of a run folder waits for now, in words; empty if none does."""
    try:
        found = json.loads((run / _FILE).read_text(encoding="utf-8"))
        return {str(site): meaning(str(code)) or str(code) for site, code in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}
