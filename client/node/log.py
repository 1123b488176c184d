"""The site's audit log: each request, each decision, and how many bytes left. It stays at the site.

One JSON object a line. Each holds the SHA-256 of the line before, so that an edit, a removal or an insertion shows;
cutting off the end shows against a head that was noted elsewhere (`mmmed site log` prints it). An entry is on disk
before what it tells of happens: if it cannot be written, nothing is computed and nothing leaves.
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmmed.errors import DeployError
from mmmed.text import shown

_START = "0" * 64
_TAIL = 65536  # bytes; far more than a line that is written today


class SiteLog:
    """The log in one file. Several processes may append at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, event: str, **facts: str | int) -> None:
        """Add one entry, durably. Texts may be others': they are cut and escaped, so that a line stays short.

        Raises:
            DeployError: the log cannot be written, or its last line is damaged.
        """
        import fcntl  # not on Windows, where the site's log is read but never written

        try:
            with self._path.open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                line = json.dumps(
                    {
                        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                        "event": event,
                        **{name: shown(one) if isinstance(one, str) else one for name, one in facts.items()},
                        "before": self._last(file.fileno()),
                    }
                )
                file.write(line.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DeployError(f"{self._path}: cannot be written ({error.strerror})") from error

    def entries(self) -> list[dict[str, Any]]:
        """All entries, oldest first.

        Raises:
            DeployError: the chain is broken (the line is named).
        """
        before, entries = _START, []
        for number, line in enumerate(self._lines(), start=1):
            try:
                entry = json.loads(line)
                whole = entry["before"] == before
            except (ValueError, KeyError, TypeError):
                whole = False
            if not whole:
                raise DeployError(
                    f"{self._path}: line {number} does not follow the line before: edited or torn"
                )
            entries.append(entry)
            before = hashlib.sha256(line).hexdigest()
        return entries

    def head(self) -> str:
        """SHA-256 of the last line, hexadecimal. A copy kept elsewhere later shows whether the end was cut off."""
        lines = self._lines()
        return hashlib.sha256(lines[-1]).hexdigest() if lines else _START

    def _lines(self) -> list[bytes]:
        try:
            return self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []

    def _last(self, descriptor: int) -> str:
        """The digest that the next line carries; a torn last line (a power cut) is cut off first."""
        size = os.fstat(descriptor).st_size
        start, tail = size, b""
        while start > 0 and tail[:-1].count(b"\n") < 2:  # earlier versions wrote lines of any length
            start = max(0, size - max(_TAIL, 2 * (size - start)))
            tail = os.pread(descriptor, size - start, start)
        whole = tail.rfind(b"\n") + 1
        if start + whole != size:
            os.ftruncate(descriptor, start + whole)
        lines = tail[:whole].splitlines()
        return hashlib.sha256(lines[-1]).hexdigest() if lines else _START
