"""What a site's ledger costs: an append on disk, opening a long one, verifying all of it.

An append flushes the write-ahead log once (fdatasync, as SQLite does). What such a flush costs by itself is measured
between the appends, of a page in place and of one that makes its file longer: an append cannot be cheaper.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.accounting import DpSgdEvent
from privacy.ledger import Budget, Ledger, dataset_identity
from simulations.bench.measure import parser, publish

_LIMIT = Budget(1e6, 1e-5)
_KEY = b"0" * 32


def main(arguments: list[str]) -> int:
    """Run the benchmark."""
    options = parser("ledger", (__doc__ or "").splitlines()[0], repeats=5)
    options.add_argument(
        "--entries", type=int, default=100_000, help="of the long ledger (default: %(default)s)"
    )
    options.add_argument("--appends", type=int, default=200, help="measured appends (default: %(default)s)")
    options.add_argument("--folder", type=Path, help="on the disk to measure (default: the current folder)")
    asked = options.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=asked.folder or Path.cwd()) as folder:
        found = _measure(Path(folder), asked.entries, asked.appends, asked.repeats)
    publish("A site's ledger", found, asked.json)
    return 0


def _measure(folder: Path, entries: int, appends: int, repeats: int) -> list[dict[str, object]]:
    path, key = folder / "ledger.db", Ed25519PrivateKey.generate()
    patients = dataset_identity((f"p{i}" for i in range(1000)), _KEY)
    with Ledger.open(path, key, limit=_LIMIT) as ledger:
        plan = ledger.plan(patients, "run", DpSgdEvent(1.0, 0.01, entries + appends + 10), 1e-5, 1.0)
        for _ in range((entries - ledger.head.seq) // 2):
            ledger.reserve(plan, 1, 1).commit(1)
        length = ledger.head.seq
        reserve, commit, probe = [], [], _Probe(folder / "probe")
        for _ in range(appends):
            probe.measure()
            started = time.perf_counter()
            held = ledger.reserve(plan, 1, 1)
            middle = time.perf_counter()
            held.commit(1)
            reserve.append(middle - started)
            commit.append(time.perf_counter() - middle)
    opening = [_timed(lambda: Ledger.inspect(path, key).close()) for _ in range(repeats)]
    with Ledger.inspect(path, key) as ledger:
        verify = [_timed(ledger.verify) for _ in range(repeats)]
    rows = (
        ("append: reserve", length, reserve, 0.010),
        ("append: commit", length, commit, 0.010),
        ("one flush of a page in place, for comparison", 0, probe.in_place, None),
        ("one flush of a page that lengthens the file", 0, probe.longer, None),
        ("open", length, opening, 0.2),
        ("verify", length, verify, 10.0),
    )
    return [
        {
            "what": what,
            "entries": count,
            "median_ms": round(1000 * statistics.median(seconds), 3),
            "worst_ms": round(1000 * max(seconds), 3),
            "aim_ms": "-" if aim is None else f"{1000 * aim:g}",
        }
        for what, count, seconds, aim in rows
    ]


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class _Probe:
    """Times a durable write of 4 KiB on this disk, in place and at the end of a growing file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY)
        self._end = 4096
        self._write(0)
        self.in_place: list[float] = []
        self.longer: list[float] = []

    def measure(self) -> None:
        self.in_place.append(_timed(lambda: self._write(0)))
        self.longer.append(_timed(lambda: self._write(self._end)))
        self._end += 4096

    def _write(self, offset: int) -> None:
        os.pwrite(self._file, os.urandom(4096), offset)
        os.fdatasync(self._file)
