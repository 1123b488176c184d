"""The site's own log of what it refused and why; it stays at the site, since a reason may carry a name."""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from client.site_folder import StateFolder


def record_refusal(state: Path, code: str, error: Exception) -> None:
    """Append one refusal: a line that says when, which code and why, then where in the code, indented.

    Where the log cannot be written (a full disk, say), standard error takes it: the refusal itself must still be sent.
    """
    when = datetime.now(UTC).isoformat(timespec="seconds")
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    place = "".join(traceback.format_exception(error)).replace("\n", "\n    ")
    entry = f"{when} refused {code} {reason}\n    {place.rstrip()}\n"
    log = StateFolder(state).log
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(entry)
    except OSError as full:
        sys.stderr.write(f"{log}: cannot be written ({full.strerror})\n{entry}")


def refusals(*states: Path) -> list[str]:
    """The refusals logged in these state folders, oldest first, one line each."""
    found = []
    for state in states:
        with suppress(OSError):
            lines = StateFolder(state).log.read_text(encoding="utf-8").splitlines()
            found += [line for line in lines if line and not line.startswith(" ")]
    return sorted(found, key=lambda line: line.partition(" ")[0])  # by time, all of it UTC
