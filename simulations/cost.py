"""What a simulated run cost: CPU time, and energy where the processor counts it. Kept in cost.json of the run.

CPU time is of this process and of the workers that it started and that have ended. Energy is what the packages of the
machine's processors took while the run lasted, by the counters of Linux's powercap interface (Intel RAPL), other
programs included; memory, disks and graphics processors are not in it. It is None where the counters cannot be read:
it is never made from an assumed power.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmmed.files import write_atomic

FILE = "cost.json"
_COUNTERS = Path("/sys/class/powercap")
_EVERY = 60.0  # seconds between readings: a counter begins anew after some minutes to hours


class Energy:
    """Adds up counters of energy while it is entered."""

    def __init__(self, counters: Path = _COUNTERS, every: float = _EVERY) -> None:
        self._files = {
            path / "energy_uj": path / "max_energy_range_uj" for path in sorted(counters.glob("intel-rapl:?"))
        }
        self._every = every
        self._last: dict[Path, int] = {}
        self._total, self._readable = 0, bool(self._files)
        self._end, self._one = threading.Event(), threading.Lock()

    def __enter__(self) -> Energy:
        self._read()
        if self._readable:
            threading.Thread(target=self._watch, name="mmmed-energy", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._read()

    @property
    def joules(self) -> float | None:
        """So far; None if any counter could not be read."""
        return self._total / 1e6 if self._readable else None

    def _watch(self) -> None:
        while not self._end.wait(self._every):
            self._read()

    def _read(self) -> None:
        with self._one:
            for file, highest in self._files.items():
                try:
                    now = int(file.read_text())
                    before = self._last.get(file, now)
                    self._total += now - before if now >= before else now - before + int(highest.read_text())
                    self._last[file] = now
                except (OSError, ValueError):
                    self._readable = False


def cpu_seconds() -> float:
    """Of this process, and of the processes that it started and that have ended."""
    return sum(os.times()[:4])


@contextmanager
def counted(folder: Path, *, whole: bool) -> Iterator[None]:
    """Add what happens inside to the cost of the run in `folder`; also of a run that is gone on with.

    `whole` says whether all of it is done by this process and by workers that it ends.
    """
    if not whole:
        yield
        return
    before = _read(folder)
    begun = {**before, "starts": before["starts"] + 1}
    write_atomic(folder / FILE, json.dumps(begun) + "\n")  # a kill leaves more starts than ends
    cpu, wall, energy = cpu_seconds(), time.monotonic(), Energy()
    with energy:
        yield
    joules = None if energy.joules is None or before["joules"] is None else before["joules"] + energy.joules
    ended = {
        "version": 1,
        "starts": begun["starts"],
        "ends": before["ends"] + 1,
        "cpu_seconds": round(before["cpu_seconds"] + cpu_seconds() - cpu, 3),
        "wall_seconds": round(before["wall_seconds"] + time.monotonic() - wall, 3),
        "joules": joules,
    }
    write_atomic(folder / FILE, json.dumps(ended) + "\n")


def _read(folder: Path) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return found
    except FileNotFoundError:
        nothing = dict.fromkeys(("starts", "ends", "cpu_seconds", "wall_seconds", "joules"), 0)
        return {"version": 1, **nothing}
