"""The site's own log of what it refused and why; it stays at the site, since a reason may carry a name."""

from __future__ import annotations

import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path

FILE = "site.log"


def record_refusal(state: Path, code: str, error: Exception) -> None:
    """Append one refusal: a line that says when, which code and why, then where in the code, indented.

    Where the log cannot be written (a full disk, say), standard error takes it: the refusal itself must still be sent.
    """
    when = datetime.now(UTC).isoformat(timespec="seconds")
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    place = "".join(traceback.format_exception(error)).replace("\n", "\n    ")
    entry = f"{when} refused {code} {reason}\n    {place.rstrip()}\n"
    try:
        state.mkdir(parents=True, exist_ok=True)
        with (state / FILE).open("a", encoding="utf-8") as file:
            file.write(entry)
    except OSError as full:
        sys.stderr.write(f"{state / FILE}: cannot be written ({full.strerror})\n{entry}")


def refusals(state: Path) -> list[str]:
    """The logged refusals, oldest first, one line each."""
    try:
        lines = (state / FILE).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [line for line in lines if line and not line.startswith(" ")]
