"""How far a site is in its round, for whoever watches at the site; nothing of it is sent."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from client.site_folder import StateFolder
from mmmed.files import write_atomic


@dataclass(frozen=True)
class Progress:
    """How far a round is: `step` of `steps` in round `server_round` of run `run_id`."""

    run_id: str
    server_round: int
    step: int
    steps: int

    def write(self, state: Path) -> None:
        """Replace the site's progress file in one move, so that a reader sees the old or the new one."""
        with suppress(OSError):  # two runs at once, a full disk: no reason to end a round that is charged
            write_atomic(StateFolder(state).progress, json.dumps(asdict(self)), durable=False)

    @classmethod
    def read(cls, state: Path) -> Progress | None:
        """The progress that was written last, or None if it cannot be read."""
        try:
            return cls(**json.loads(StateFolder(state).progress.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
