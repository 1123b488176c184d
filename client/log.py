"""The site's own log of what it refused and why; it stays at the site, since a reason may carry a name."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime
from pathlib import Path

FILE = "site.log"


def record_refusal(state: Path, code: str, error: Exception) -> None:
    """Append one refusal: a line that says when, which code and why, then where in the code, indented."""
    state.mkdir(parents=True, exist_ok=True)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    place = "".join(traceback.format_exception(error)).replace("\n", "\n    ")
    with (state / FILE).open("a", encoding="utf-8") as file:
        file.write(f"{when} refused {code} {reason}\n    {place.rstrip()}\n")


def refusals(state: Path) -> list[str]:
    """The logged refusals, oldest first, one line each."""
    try:
        lines = (state / FILE).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [line for line in lines if line and not line.startswith(" ")]
