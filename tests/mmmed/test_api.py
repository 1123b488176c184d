"""What a program gets from ``import mmmed``: the same as the command, as functions."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mmmed
from mmmed.config import RunConfig, resolve
from mmmed.errors import ConfigError, DataError, ModelError
from mmmed.inference.sites import predict_sites

SECTIONS = {
    "federation": {"rounds": 1},
    "training": {"local_epochs": 1, "batch_size": 8},
    "privacy": {"delta": 0.01},
}


@pytest.fixture(scope="module")
def run(hospitals: Path, tmp_path_factory: pytest.TempPathFactory) -> mmmed.Run:
    folder = tmp_path_factory.mktemp("api") / "run"
    return mmmed.simulate(folder=folder, data={"source": str(hospitals)}, **SECTIONS)


def test_importing_it_loads_nothing_heavy() -> None:
    program = (
        "import sys, mmmed; assert {'simulate', 'RunConfig', 'load_model', 'predict'} <= set(dir(mmmed));"
        "heavy = {'torch', 'pydantic', 'pandas', 'flwr', 'simulations'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_every_public_name_is_there_and_no_other() -> None:
    assert all(getattr(mmmed, name) is not None for name in mmmed.__all__)
    assert mmmed.RunConfig is RunConfig
    with pytest.raises(AttributeError, match="simulat'"):
        mmmed.simulat  # noqa: B018


def test_a_simulation_gives_its_folder_and_its_evaluation(run: mmmed.Run) -> None:
    assert (run.folder / "model" / "model.safetensors").is_file()
    assert set(run.evaluation["auroc"]) == {"pooled", "site_only", "within_site", "sites"}
    assert mmmed.load_model(run.folder).config.federation.rounds == 1


def test_a_file_and_sections_over_it(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[federation]\nrounds = 2\n")
    with pytest.raises(ConfigError, match=r"mmmed\.simulate: .*'federation\.round'.*'federation\.rounds'"):
        mmmed.simulate(tmp_path / "run.toml", federation={"round": 1})
    with pytest.raises(ConfigError, match=r"run\.toml: federation\.rounds"):
        (tmp_path / "run.toml").write_text("[federation]\nrounds = 0\n")
        mmmed.simulate(tmp_path / "run.toml", training={"seed": 1})
    with pytest.raises(TypeError, match="training"):
        mmmed.simulate(resolve().config, training={"seed": 1})


def test_a_model_is_read_from_its_own_folder_too(run: mmmed.Run, tmp_path: Path) -> None:
    network, config = mmmed.load_model(run.folder / "model")
    assert not network.training and config.training.batch_size == 8
    with pytest.raises(ModelError, match="no model"):
        mmmed.load_model(tmp_path)


def test_predictions_are_those_of_the_evaluation_and_cover_every_record(
    run: mmmed.Run, hospitals: Path
) -> None:
    model = mmmed.load_model(run.folder)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    table = mmmed.predict(model, hospitals)
    assert len(table) == len(pd.read_csv(hospitals / "data.csv")) == table["row"].nunique()
    classes = list(model.config.task.classes)
    np.testing.assert_allclose(table[classes].sum(axis=1), 1)
    assert all(value.equal(before[name]) for name, value in model.network.state_dict().items())
    for site in predict_sites(*mmmed.load_model(run.folder), hospitals):
        mine = table.loc[table["site"] == site.site, classes].to_numpy()
        nearest = np.abs(mine[None] - site.prediction[:, None]).max(axis=2).min(axis=1)
        assert len(site.prediction) < len(mine) and nearest.max() < 1e-6


def test_one_patient_is_enough_and_what_is_wrong_with_a_row_is_a_warning(
    run: mmmed.Run, hospitals: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(hospitals, data)
    rows = pd.read_csv(hospitals / "data.csv", dtype=str)
    rows.head(1).to_csv(data / "data.csv", index=False)
    model = mmmed.load_model(run.folder)
    with pytest.warns(UserWarning, match="the same label"):
        assert len(mmmed.predict(model, data)) == 1
    rows.head(1).drop(columns="text").to_csv(data / "data.csv", index=False)
    with pytest.raises(DataError, match="text"):
        mmmed.predict(model, data)
