"""What a command costs: CPU time and peak memory of its whole tree of processes; tables and JSON of the results.

Memory is PSS (a page shared by n processes counts 1/n in each), summed over the tree at each sample. CPU time is the
larger of two lower bounds: what the kernel charges for processes that somebody waited for, and the last sample of
every process that was seen.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_INTERVAL = 0.1  # seconds between samples
_GRACE = 5.0  # seconds that what a command leaves behind has to end
_TICK = 1 / os.sysconf("SC_CLK_TCK")
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER

Row = dict[str, Any]


class MeasurementError(Exception):
    """A measured command failed; its output is in the message."""


@dataclass(frozen=True)
class Measured:
    """One run of a command: CPU-seconds, peak PSS in MB (1e6 bytes), wall seconds, and the JSON that it printed."""

    cpu_s: float
    peak_mb: float
    wall_s: float
    output: dict[str, Any]


def measure(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Measured:
    """Run a command whose last line of output is a JSON object, and end whatever it leaves behind.

    The caller may have no other child processes.

    Raises:
        MeasurementError: it fails, or prints no JSON.
    """
    tree = _Tree()
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors, _adopting_orphans():
        process = subprocess.Popen(command, env=dict(environment or os.environ), stdout=output, stderr=errors)
        while process.pid not in tree.ended:
            tree.sample()
            time.sleep(_INTERVAL)
            tree.reap()
        wall = time.monotonic() - started
        tree.end()
        process.returncode = tree.ended[process.pid]  # reaped here, not by Popen
        output.seek(0)
        errors.seek(0)
        printed, complaints = output.read(), errors.read()
    try:
        if process.returncode:
            raise ValueError(f"exit code {process.returncode}")
        result = json.loads(printed.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        text = f"{printed[-2000:]}\n{complaints[-4000:]}"
        raise MeasurementError(f"{' '.join(command)}: {error}\n{text}") from error
    return Measured(tree.cpu_s, tree.peak_mb, wall, result)


@dataclass
class _Tree:
    """The descendants of this process."""

    ended: dict[int, int] = field(default_factory=dict)  # pid -> exit code, of our own children
    peak_mb: float = 0.0
    _charged: float = 0.0
    _sampled: dict[tuple[int, str], float] = field(default_factory=dict)  # (pid, start) -> CPU-seconds so far

    @property
    def cpu_s(self) -> float:
        return max(self._charged, sum(self._sampled.values()))

    def sample(self) -> None:
        """Read CPU time and memory of every process."""
        total = 0
        for pid in self._pids():
            with contextlib.suppress(OSError, IndexError, ValueError):  # it may end meanwhile
                fields = _stat(pid)
                self._sampled[pid, fields[19]] = (int(fields[11]) + int(fields[12])) * _TICK
                total += _pss(pid)
        self.peak_mb = max(self.peak_mb, total / 1e6)

    def reap(self) -> None:
        """Collect children that ended, orphans among them."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.wait4(-1, os.WNOHANG))[0]:
                pid, status, usage = ended
                self.ended[pid] = os.waitstatus_to_exitcode(status)
                self._charged += usage.ru_utime + usage.ru_stime

    def end(self) -> None:
        """Terminate, then kill, the descendants that still run."""
        for stop in (signal.SIGTERM, signal.SIGKILL):
            for pid in self._pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, stop)
            deadline = time.monotonic() + _GRACE
            while self._pids() and time.monotonic() < deadline:
                self.sample()
                time.sleep(_INTERVAL)
                self.reap()

    @staticmethod
    def _pids() -> list[int]:
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, IndexError, ValueError):
                    children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
        found: list[int] = []
        ahead = [os.getpid()]
        while ahead:
            below = children.get(ahead.pop(), [])
            found += below
            ahead += below
        return found


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from the third field (state) on; the second may hold spaces."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


@contextlib.contextmanager
def _adopting_orphans() -> Iterator[None]:
    """Orphans of our descendants become our children, so that they are found, charged and ended."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_SUBREAPER, 0, 0, 0, 0)


def interleaved(
    commands: Mapping[str, Sequence[str]], repeats: int, environment: Mapping[str, str]
) -> dict[str, list[Measured]]:
    """Measure each command ``repeats`` times in turn, so that a change of the machine meets all of them."""
    runs: dict[str, list[Measured]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            runs[name].append(measure(command, environment))
    return runs


def rows(
    case: str, runs: Mapping[str, Sequence[Measured]], baseline: str, own: Sequence[str] = ()
) -> list[Row]:
    """One row a system: medians, the median ratio of CPU time to the baseline's of the same turn, and ``own`` values.

    Args:
        case: what was done.
        runs: by system.
        baseline: the system that ratios refer to.
        own: keys of the systems' printed JSON to take over (of the last run).
    """
    found = []
    for system, measured in runs.items():
        ratios = [one.cpu_s / base.cpu_s for one, base in zip(measured, runs[baseline], strict=True)]
        row: Row = {
            "case": case,
            "system": system,
            "cpu_s": round(statistics.median(one.cpu_s for one in measured), 2),
            "ratio": round(statistics.median(ratios), 3),
            "peak_mb": round(statistics.median(one.peak_mb for one in measured), 1),
        }
        found.append(row | {key: measured[-1].output[key] for key in own})
    return found


def parser(name: str, about: str, repeats: int | None) -> argparse.ArgumentParser:
    """The options that every benchmark has; ``--repeats`` with that default, unless it is None."""
    options = argparse.ArgumentParser(prog=f"python -m simulations.bench {name}", description=about)
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    if repeats is not None:
        options.add_argument(
            "--repeats", type=int, default=repeats, help="runs of each system (default: %(default)s)"
        )
    return options


def publish(title: str, found: Sequence[Row], json_file: Path | None) -> None:
    """Print rows as a table and, if asked, write them as ``{"rows": [...]}``."""
    table = Table(title=title)
    for key in found[0]:
        table.add_column(key, justify="left" if isinstance(found[0][key], str) else "right")
    for row in found:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
    if json_file is not None:
        json_file.write_text(json.dumps({"rows": list(found)}, indent=2) + "\n", encoding="utf-8")
