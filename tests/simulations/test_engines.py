"""The same apps give the same result in process, in worker processes, on Ray and under ``flwr run``."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from flwr.serverapp import Grid

from mmmed.config import RunConfig, from_flat
from mmmed.errors import RunError
from server.checkpoint import Arrays, load_checkpoint
from server.events import ignore
from server.rounds import Rounds
from server.run_folder import RunFolder
from simulations.grid import InProcessGrid
from simulations.ray_engine import run_on_ray
from tests import standin

APP = "tests.standin:app"
ROOT = Path(__file__).parents[2]
CONFIG = from_flat({"federation.rounds": 2, "privacy.enabled": False})
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
    deadline = time.monotonic() + 90
    while not (tmp_path / "0" / "hanging").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) != 0
    (call,) = standin.calls(tmp_path / "0")
    with pytest.raises(ProcessLookupError):
        os.kill(int(str(call["pid"])), 0)


@pytest.fixture
def superlink(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A local SuperLink in the foreground, as docs/flower.md starts it; yields the environment to use it."""
    with socket.socket() as one, socket.socket() as two:
        for free in (one, two):
            free.bind(("127.0.0.1", 0))
        port, control = one.getsockname()[1], two.getsockname()[1]
    environment = os.environ | {
        "FLWR_HOME": str(tmp_path / "flwr"),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "MMMED_RUN_FOLDER": str(tmp_path / "run"),
        "MMMED_STATE_DIR": str(tmp_path / "sites"),
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    (tmp_path / "flwr").mkdir()
    (tmp_path / "flwr" / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    process = subprocess.Popen(
        ["flower-superlink", "--insecure", "--simulation", "--disable-runtime-dependency-installation",
         "--host", "127.0.0.1", "--port", str(port), "--control-api-address", f"127.0.0.1:{control}"],
        env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        yield environment
    finally:
        process.terminate()
        process.wait(30)


@needs_ray
def test_flwr_run_agrees(tmp_path: Path, superlink: dict[str, str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    app = project["tool"]["flwr"]["app"]
    app["components"] = {"serverapp": "tests.standin:server_app", "clientapp": "tests.standin:app"}
    (tmp_path / "app" / "docs").mkdir(parents=True)
    (tmp_path / "app" / "docs" / "flower.md").write_text("the bundle's only file")
    kept = {key: project["project"][key] for key in ("name", "version", "description")}
    (tmp_path / "app" / "pyproject.toml").write_text(
        tomli_w.dumps({"project": kept, "tool": {"flwr": {"app": app}}})
    )
    done = subprocess.run(
        ["flwr", "run", ".", "--federation-config", "num-supernodes=3", "--stream",
         "--run-config", "federation.rounds=2 privacy.enabled=false"],
        cwd=tmp_path / "app", env=superlink, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    with RunFolder.open(tmp_path / "run", CONFIG) as folder:
        assert [(r["round"], r["changed"]) for r in folder.rounds()] == [(1, True), (2, True)], done.stdout
        checkpoint = load_checkpoint(folder.checkpoints)
    assert checkpoint is not None
    for key, value in standin.averaged(standin.initial(), 2, [0, 1, 2]).items():
        np.testing.assert_allclose(checkpoint.model[key], value, rtol=1e-6)
    assert sorted(path.name for path in (tmp_path / "sites").iterdir()) == ["0", "1", "2"]


def test_ray_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "ray" else find(name, *a)
    )
    with pytest.raises(RunError, match=r"pip install 'mmmed\[ray\]'"):
        run_on_ray(lambda grid: None, APP, [{}])
