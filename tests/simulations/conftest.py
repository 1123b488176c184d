from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmmed.cli import main
from mmmed.data.demo import generate

SMALL = (
    "data.image_size=32",
    "data.text_tokens=16",
    "model.image_width=8",
    "model.fusion_dim=16",
    "training.batch_size=8",
)


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated hospitals of a few patients each."""
    return generate(tmp_path_factory.mktemp("hospitals") / "data", scale=0.06)


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
