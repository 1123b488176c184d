"""Measuring covers the whole tree of processes, and benchmarks write what they print."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from simulations.bench.__main__ import BENCHMARKS, main
from simulations.bench.common import task
from simulations.bench.measure import Measured, MeasurementError, measure, publish, rows

BURN = '''
import os, subprocess, sys, time
ORPHAN = """
import subprocess, sys
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
print(subprocess.Popen(sleep, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)
"""
def burn(seconds):
    while time.process_time() < seconds: pass
hold = bytearray(b"x") * int({mb} * 1e6)
if len(sys.argv) == 1:
    children = [subprocess.Popen([sys.executable, __file__, "child"]) for _ in range({children})]
    if {leave}:
        orphan = subprocess.run([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True)
        left = int(orphan.stdout)
    burn(0.5)
    for child in children: child.wait()
    print('{{"left": %d}}' % (left if {leave} else 0))
else:
    burn(0.5); time.sleep(0.4)
'''


def burner(folder: Path, mb: int, children: int, leave: bool = False) -> list[str]:
    path = folder / "burn.py"
    path.write_text(BURN.format(mb=mb, children=children, leave=leave))
    return [sys.executable, str(path)]


def test_children_are_charged(tmp_path: Path) -> None:
    alone = measure(burner(tmp_path, 0, 0))
    family = measure(burner(tmp_path, 0, 3))
    assert alone.cpu_s >= 0.5
    assert family.cpu_s >= 1.9  # four processes burn half a second each, counted in clock ticks


def test_memory_of_all_processes_is_added(tmp_path: Path) -> None:
    alone = measure(burner(tmp_path, 50, 0))
    family = measure(burner(tmp_path, 50, 3))
    assert 50 < alone.peak_mb < 150
    assert family.peak_mb > 4 * 50


def test_orphans_are_ended(tmp_path: Path) -> None:
    left = measure(burner(tmp_path, 0, 0, leave=True)).output["left"]
    assert left and not Path(f"/proc/{left}").exists()


@pytest.mark.parametrize("code", ["raise SystemExit('broken')", "print('no json')", "pass"])
def test_a_failing_command_is_an_error(code: str) -> None:
    with pytest.raises(MeasurementError):
        measure([sys.executable, "-c", code])


def test_rows_give_medians_and_ratios_of_the_same_turn(tmp_path: Path) -> None:
    def run(cpu: float, mb: float) -> Measured:
        return Measured(cpu, mb, 1.0, {"epsilon": cpu})

    runs = {"a": [run(1, 10), run(2, 30), run(10, 20)], "b": [run(2, 5), run(2, 5), run(40, 5)]}
    found = rows("case", runs, "a", ["epsilon"])
    assert found[0] == {"case": "case", "system": "a", "cpu_s": 2, "ratio": 1.0, "peak_mb": 20, "epsilon": 10}
    assert found[1] == {"case": "case", "system": "b", "cpu_s": 2, "ratio": 2.0, "peak_mb": 5, "epsilon": 40}
    publish("title", found, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == {"rows": found}


def test_an_unknown_benchmark_lists_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["absent"]) == 2
    listed = capsys.readouterr().out
    assert all(name in listed for name in BENCHMARKS)


def test_the_common_net_is_the_peers_net() -> None:
    assert sum(p.numel() for p in task.build_net().parameters()) == 18_402


@pytest.mark.parametrize("engine", ["hooks", "bookkeeping"])
def test_our_epsilon_composes_over_rounds(engine: str) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "simulations.bench.common.ours", engine]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed["epsilon"] == pytest.approx(3.139, rel=0.01)  # PLD of 21 steps, sigma 1, q 1/7, delta 1e-3
    assert printed["loss"] < 0.75
