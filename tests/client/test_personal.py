"""A federated model trained on with one site's own patients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import mmmed
from client.personal import personalise
from mmmed.cli import app
from mmmed.config import RunConfig, resolve
from mmmed.data.loader import SiteData, open_site_data
from mmmed.data.manifest import read_manifest
from mmmed.errors import DataError
from mmmed.models import build_model, load_model, save_model

KEYS = {"image": "", "text": "", "numbers": {"a": [-2, 2], "b": [-2, 2]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sites: at one `a` says it, at the other its opposite."""
    folder, rng, patients = tmp_path_factory.mktemp("own"), np.random.default_rng(0), 160
    a, site = rng.normal(size=patients), np.repeat(["here", "there"], patients // 2)
    table = {
        "patient_id": range(patients), "study_id": range(patients), "site": site, "a": a,
        "b": rng.normal(size=patients), "finding": ((a > 0) ^ (site == "there")).astype(int),
    }  # fmt: skip
    pd.DataFrame(table).to_csv(folder / "data.csv", index=False)
    config = a_run()
    model = build_model(config)
    for name, value in model.named_parameters():
        torch.nn.init.normal_(value, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    save_model(folder / "run", model, config)
    return folder


def a_run(**sections: object) -> RunConfig:
    return RunConfig.model_validate({"data": KEYS, "model": {"fusion": {"kind": "linear"}}, **sections})


def opened(folder: Path, site: str) -> SiteData:
    config = a_run()
    manifest = read_manifest(folder, config.data, config.task).of_site(site)
    return open_site_data(manifest, config, folder / "cache")


@pytest.mark.parametrize("site", ["here", "there"])
def test_each_site_gets_the_model_of_its_own_patients(folder: Path, site: str) -> None:
    model, config = load_model(folder / "run")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = personalise(
        model, config, opened(folder, site), folder / "features", passes=60, learning_rate=0.05
    )
    assert found.passes > 0 and found.after.value > 0.95 and found.after.value > found.before.value
    assert not found.config.privacy.enabled and not found.model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_who_is_held_out_decides_nothing(folder: Path) -> None:
    model, config = load_model(folder / "run")
    data = opened(folder, "here")
    other = replace(data, test=data.test.part(np.arange(len(data.test)) % 2 == 0))
    weights = [
        personalise(model, config, one, folder / "features", passes=3).model.state_dict()
        for one in (data, other)
    ]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_where_no_pass_helps_the_model_stays_as_it_came(folder: Path) -> None:
    model, config = load_model(folder / "run")
    good = personalise(model, config, opened(folder, "here"), folder / "features", learning_rate=0.05).model
    again = personalise(
        good, config, opened(folder, "here"), folder / "features", passes=3, learning_rate=1e-8
    )
    assert again.passes == 0
    assert all(
        torch.equal(value, good.state_dict()[name]) for name, value in again.model.state_dict().items()
    )


def test_too_few_patients_are_told(folder: Path) -> None:
    model, config = load_model(folder / "run")
    data = opened(folder, "here")
    few = replace(data, train=data.train.part(data.train.patient < 3))
    with pytest.raises(DataError, match="too few"):
        personalise(model, config, few, folder / "features")
    nobody = replace(data, test=data.test.part(np.zeros(len(data.test), dtype=bool)))
    with pytest.raises(DataError, match="holds out no patients"):
        personalise(model, config, nobody, folder / "features")


def test_the_command_writes_a_model_that_says_it_is_not_private(folder: Path, tmp_path: Path) -> None:
    asked = ["personalise", str(folder / "run"), "--data", str(folder), "--out", str(tmp_path / "own")]
    result = CliRunner().invoke(app, asked)
    assert isinstance(result.exception, DataError) and "one of here, there" in str(result.exception)
    result = CliRunner().invoke(app, [*asked, "--site", "there", "--learning-rate", "0.05"])
    assert result.exit_code == 0, result.output
    assert "without differential privacy" in result.output and "AUROC on the site's held-out" in result.output
    assert not resolve(tmp_path / "own" / "config.toml").config.privacy.enabled
    loaded = mmmed.load_model(tmp_path / "own")
    assert "without differential privacy" in loaded.facts.in_words
    assert loaded.predict(a="1.5", b="0").values
    again = CliRunner().invoke(app, [*asked, "--site", "there"])
    assert isinstance(again.exception, DataError) and "is there already" in str(again.exception)


def test_a_model_of_masked_steps_can_be_trained_on(folder: Path) -> None:
    model, _ = load_model(folder / "run")
    masked = a_run(
        federation={"release": "secure-steps", "honest": 1, "min_sites": 2, "rounds": 3},
        training={"optimizer": "sgd", "learning_rate": 1.0},
    )
    found = personalise(model, masked, opened(folder, "here"), folder / "features", passes=2)
    assert RunConfig.model_validate(found.config.model_dump()).federation.release == "steps"
