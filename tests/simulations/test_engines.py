"""The engines carry the apps faithfully: in process, in worker processes and on Ray, with stand-in apps.

`test_simulate` holds all engines, ``flwr run`` too, to one result with the real apps.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from flwr.serverapp import Grid

from mmmed.config import RunConfig, from_flat
from mmmed.errors import RunError
from server.checkpoint import Arrays
from server.events import ignore
from server.loop import Rounds
from server.run_folder import RunFolder
from simulations.grid import InProcessGrid
from simulations.ray_engine import run_on_ray
from tests import standin

APP = "tests.standin:app"
ROOT = Path(__file__).parents[2]
CONFIG = from_flat(
    {"federation.rounds": 2, "privacy.enabled": False, "federation.max_update_norm": 1e9}
)  # as the oracle averages
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="the ray extra is not installed"
)


def nodes(folder: Path, *behaviours: str) -> list[dict[str, str]]:
    return [{"state-dir": str(folder / str(i)), "behaviour": b} for i, b in enumerate(behaviours)]


def serve(folder: Path, grid: Grid, config: RunConfig = CONFIG) -> Arrays:
    with RunFolder.create(folder, config) as run:
        return Rounds(grid, run, ignore).run(standin.initial())


def test_serial_and_workers_agree(tmp_path: Path) -> None:
    finals = []
    for workers in (0, 2):
        with InProcessGrid(APP, nodes(tmp_path / f"sites-{workers}", "", "", ""), workers=workers) as grid:
            finals.append(serve(tmp_path / f"run-{workers}", grid))
    expected = standin.averaged(standin.initial(), 2, [0, 1, 2])
    for final in finals:
        for key, value in expected.items():
            np.testing.assert_allclose(final[key], value, rtol=1e-6)


@needs_ray
def test_ray_agrees_and_isolates_a_failing_site(tmp_path: Path) -> None:
    config = nodes(tmp_path / "sites", "", "", "", "raise")
    final = run_on_ray(lambda grid: serve(tmp_path / "run", grid), APP, config, actors=2)
    for key, value in standin.averaged(standin.initial(), 2, [0, 1, 2]).items():
        np.testing.assert_allclose(final[key], value, rtol=1e-6)
    with RunFolder.open(tmp_path / "run") as folder:
        refused = [sorted(line.get("refused", "") for line in r["train"]) for r in folder.rounds()]
    assert refused == 2 * [["", "", "", "failed"]]
    assert [call["phase"] for call in standin.calls(tmp_path / "sites" / "2")] == 2 * ["train", "evaluate"]
    assert "Doe" not in (tmp_path / "run" / "rounds.jsonl").read_text()


@needs_ray
def test_an_error_of_the_server_comes_back_from_ray_as_it_is(tmp_path: Path) -> None:
    def fail(grid: Grid) -> None:
        raise RunError("the model folder is full")

    with pytest.raises(RunError, match="the model folder is full"):
        run_on_ray(fail, APP, [{}, {}], actors=1)


@needs_ray
def test_ctrl_c_ends_a_ray_run(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom tests.simulations.test_engines import *\n"
        f"here = Path({str(tmp_path)!r})\n"
        "if __name__ == '__main__':\n"
        "    run_on_ray(lambda grid: serve(here / 'run', grid), APP, nodes(here, 'hang', ''), actors=1)\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], env=os.environ | {"PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 600
    while not (tmp_path / "0" / "hanging").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) != 0
    (call,) = standin.calls(tmp_path / "0")
    with pytest.raises(ProcessLookupError):
        os.kill(int(str(call["pid"])), 0)
