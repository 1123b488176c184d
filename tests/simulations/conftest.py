from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmmed.cli import main

ROOT = Path(__file__).parents[2]
SMALL = (
    "data.image_size=32",
    "data.text_tokens=16",
    "model.image_width=8",
    "model.fusion.width=16",
    "training.batch_size=8",
    "training.local_epochs=1",
)


@pytest.fixture
def mmmed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process: exit code, standard output, standard error."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["mmmed", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0 if code is None else 1), captured.out, captured.err

    return run


def small(hospitals: Path, *more: str) -> list[str]:
    """Arguments of a simulation of seconds."""
    return ["simulate", "--data", str(hospitals), *(f"--set={text}" for text in (*SMALL, *more))]


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
        deadline = time.monotonic() + 600
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        yield environment
    finally:
        process.terminate()
        process.wait(300)
