"""A run folder that an earlier version wrote, with a trained model of images and notes and a signed report."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def kept_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    with tarfile.open(Path(__file__).parents[1] / "contracts" / "formats" / "run.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "run"
