"""Run folders, site folders and data sets that version 0.1.0 wrote are still read."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from client.site_folder import SiteFolder
from mmmed.cli import app
from mmmed.config import DataConfig
from mmmed.data.manifest import read_manifest
from mmmed.models import build_model, load_model, trainable_state
from mmmed.models.fusion import Attention
from mmmed.tasks import Classification
from server.dashboard.runs import read_run
from server.events import ignore
from server.loop import Rounds
from server.run_folder import RunFolder
from simulations.grid import InProcessGrid

FORMATS = Path(__file__).parent / "formats"

Unpacked = Callable[[str], Path]


@pytest.fixture
def unpacked(tmp_path: Path) -> Unpacked:
    """Gives one of the folders by its name, as version 0.1.0 wrote it."""

    def unpack(name: str) -> Path:
        with tarfile.open(FORMATS / f"{name}.tar.xz") as archive:
            archive.extractall(tmp_path, filter="data")
        return tmp_path / name

    return unpack


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_run_folder_opens_and_its_model_is_whole(unpacked: Unpacked) -> None:
    folder = unpacked("run")
    with RunFolder.open(folder) as opened:
        assert opened.config.federation.rounds == 2 and opened.config.model.trainable == "fusion-head"
        assert opened.config.model.fusion == Attention(width=8, heads=2)
        assert [record["round"] for record in opened.rounds()] == [1, 2]
    model, config = load_model(folder / "model")
    assert config.data.image_size == 32
    assert sum(value.numel() for value in trainable_state(model).values()) > 1000


def test_a_report_verifies_and_can_be_written_again(unpacked: Unpacked) -> None:
    folder = unpacked("run")
    assert read_run(folder).reports == ["privacy.html", "epsilon.html"]  # both are shown as they are
    run("privacy", "verify", folder / "report" / "privacy.json")
    run("privacy", "report", folder)
    run("privacy", "verify", folder / "report" / "privacy.json")
    assert read_run(folder).reports == ["privacy.html", "epsilon.html"]
    body = json.loads((folder / "report" / "privacy.json").read_text())
    assert {site["site"] for site in body["sites"]} == {"harbour", "meadow", "northgate", "old-mill"}
    assert all(7.9 < site["epsilon_charged"] <= 8 for site in body["sites"])


def test_a_ledger_and_a_signed_policy_are_taken(unpacked: Unpacked) -> None:
    folder = unpacked("site")
    assert "in force" in run("privacy", "policy", "check", folder / "site-policy.toml")
    opened = SiteFolder(folder)
    with opened.ledger(opened.policy()) as ledger:
        assert sorted(plan.purpose for plan in ledger.plans()) == ["evaluation", "training"]
        assert 0 < ledger.spent(1e-3, run_id="r") <= 8
    assert "10 entries" in run("privacy", "ledger", "show", folder)


def test_a_data_set_is_read(unpacked: Unpacked) -> None:
    data = DataConfig(source=str(unpacked("dataset")), table="data.parquet", image="image", text="text")
    manifest = read_manifest(Path(data.source), data, Classification(label="finding"))
    assert len(manifest.records) == 15 and manifest.records["patient"].nunique() == 8


def test_a_run_goes_on_from_its_checkpoint(unpacked: Unpacked, tmp_path: Path) -> None:
    path = unpacked("run")
    model = build_model(load_model(path / "model")[1])
    initial = {key: value.detach().numpy() for key, value in trainable_state(model).items()}
    nodes = [{}, {}, {}, {}]
    with RunFolder.open(path) as folder, InProcessGrid("tests.standin:app", nodes) as grid:
        final = Rounds(grid, folder, ignore).run(initial)
        assert len(folder.rounds()) == 2  # nobody was asked
    saved = trainable_state(load_model(path / "model")[0])
    assert all(np.array_equal(final[key], value.detach().numpy()) for key, value in saved.items())
