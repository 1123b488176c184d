"""What it costs until a command that computes nothing has answered: ``--help`` of every command, ``config show``.

Each runs in a process of its own. Heavy libraries (torch, pandas, Flower) must not be loaded for it; the test
`test_help_and_configuration_load_no_heavy_library` holds that, this says what it comes to.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from simulations.bench.measure import MeasurementError, Row, parser, publish

COMMANDS = (
    ("--help",),
    ("--version",),
    ("simulate", "--help"),
    ("config", "show"),
    ("privacy", "plan", "--help"),
    ("privacy", "ledger", "show", "--help"),
    ("site", "ingest", "--help"),
    ("server", "run", "--help"),
)
_AIM_CPU_S, _AIM_MB = 0.6, 60


def main(arguments: Sequence[str]) -> int:
    """Measure and print; returns the exit code."""
    options = parser("start", (__doc__ or "").splitlines()[0], repeats=3)
    chosen = options.parse_args(arguments)
    _cost(COMMANDS[0])  # byte code is compiled once
    runs: dict[Sequence[str], list[tuple[float, float]]] = {command: [] for command in COMMANDS}
    for _ in range(chosen.repeats):
        for command, costs in runs.items():
            costs.append(_cost(command))
    found: list[Row] = [
        {
            "command": " ".join(("mmmed", *command)),
            "cpu_s": statistics.median(cpu for cpu, _ in costs),
            "least": min(cpu for cpu, _ in costs),
            "aim_s": _AIM_CPU_S,
            "peak_mb": round(statistics.median(peak for _, peak in costs), 1),
            "aim_mb": _AIM_MB,
        }
        for command, costs in runs.items()
    ]
    publish("CPU-seconds and peak memory until a command has answered", found, chosen.json)
    return 0


def _cost(command: Sequence[str]) -> tuple[float, float]:
    """CPU-seconds and peak resident memory in MB (1e6 bytes) of one process, as the kernel counts them.

    Raises:
        MeasurementError: the command fails.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "mmmed.cli", *command],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise MeasurementError(f"mmmed {' '.join(command)}: {process.returncode}\n{errors.read()}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6
