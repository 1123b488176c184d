"""The site's own log of what it refused and why; it stays at the site, since a reason may carry a name."""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from client.site_folder import StateFolder
from mmmed.text import escaped, shown

_MOST_REASON, _MOST_PLACE = 1000, 10_000  # characters
_MOST_LOG = 5_000_000  # bytes; what is older is kept once, beside it


def record_refusal(state: Path, code: str, error: Exception) -> None:
    """Append one refusal: a line that says when, which code and why, then where in the code, indented.

    What is told may be the coordinator's words: it is escaped and cut. A log that is full is set aside once, as
    ``site.log.1``, so that refusals without end fill no disk.

    Where the log cannot be written (a full disk, say), standard error takes it: the refusal itself must still be sent.
    """
    when = datetime.now(UTC).isoformat(timespec="seconds")
    reason = shown(" ".join(f"{type(error).__name__}: {error}".split()), _MOST_REASON)
    place = escaped("".join(traceback.format_exception(error))[-_MOST_PLACE:], keep="\n").replace(
        "\n", "\n    "
    )
    entry = f"{when} refused {code} {reason}\n    {place.rstrip()}\n"
    log = StateFolder(state).log
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if log.exists() and log.stat().st_size > _MOST_LOG:
            log.replace(_older(log))
        with log.open("a", encoding="utf-8") as file:
            file.write(entry)
    except OSError as full:
        sys.stderr.write(f"{log}: cannot be written ({full.strerror})\n{entry}")


def refusals(*states: Path) -> list[str]:
    """The refusals logged in these state folders, oldest first, one line each."""
    found = []
    for log in (StateFolder(state).log for state in states):
        for file in (_older(log), log):
            with suppress(OSError):
                lines = file.read_text(encoding="utf-8").split("\n")
                found += [escaped(line) for line in lines if line and not line.startswith(" ")]
    return sorted(found, key=lambda line: line.partition(" ")[0])  # by time, all of it UTC


def _older(log: Path) -> Path:
    return log.with_name(f"{log.name}.1")
