"""A run that begins from the model of an earlier one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mmmed.config import RunConfig
from mmmed.errors import ModelError
from mmmed.models import build_model, save_model, start_from, trainable_state
from server.checkpoint import Checkpoint, save_checkpoint
from server.run import first_model
from server.run_folder import CHECKPOINTS
from simulations.simulate import preflight

SMALL = {"image_width": 8, "fusion": {"width": 8, "heads": 2}}


def a_run(classes: int = 2, seed: int = 0, source: str = "demo", **model: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "task": {"classes": [str(number) for number in range(classes)]},
            "data": {"source": source, "image_size": 16, "text_tokens": 8},
            "model": SMALL | model,
            "training": {"seed": seed, "batch_size": 4},
            "privacy": {"delta": 1e-2},
        }
    )


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """Folder of a run with a final model that was trained in all parts."""
    model = build_model(a_run())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    save_model(tmp_path / "run" / "model", model, a_run())
    return tmp_path / "run"


@pytest.mark.parametrize("below", ["", "model"])
def test_what_has_the_same_shape_is_taken_and_the_head_of_another_task_is_drawn(
    below: str, earlier: Path
) -> None:
    own, drawn = build_model(a_run(classes=3, seed=5)), build_model(a_run(classes=3, seed=5))
    said = start_from(own, earlier / below)
    first = build_model(a_run()).state_dict()
    for name, value in trainable_state(own).items():
        if name.startswith("head."):
            assert torch.equal(value, drawn.state_dict()[name]) and name in said
        else:
            assert torch.equal(value, first[name] + 1)
    assert f"{len(trainable_state(own)) - 2} of {len(trainable_state(own))}" in said


def test_what_no_site_could_have_is_refused(earlier: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.start.*which freezes it.*model\.trainable"):
        start_from(build_model(a_run(trainable="fusion-head")), earlier)


def test_models_without_anything_in_common_are_refused(earlier: Path) -> None:
    other = build_model(a_run(3, image="vit-tiny", fusion={"kind": "linear"}, text="word-mean"))
    with pytest.raises(ModelError, match="none of the parameters"):
        start_from(other, earlier)


@pytest.mark.parametrize("name", ["nowhere", "run/model/model.safetensors"])
def test_a_folder_without_a_model_is_named(name: str, earlier: Path) -> None:
    with pytest.raises(ModelError, match=r"no model\.safetensors|no config\.toml"):
        start_from(build_model(a_run()), earlier.parent / name)


def test_a_simulation_begins_from_it_and_the_digest_of_others_stays(
    earlier: Path, hospitals: Path, capsys: Any
) -> None:
    config = a_run(start=str(earlier), source=str(hospitals))
    assert a_run(start=str(earlier)).digest != a_run().digest == a_run(start="").digest
    first = build_model(a_run()).state_dict()
    prepared = preflight(config, "inprocess")
    assert all(torch.equal(value, first[name] + 1) for name, value in prepared.model.state_dict().items())
    assert "model.start: " in capsys.readouterr().out


def test_a_run_with_a_checkpoint_needs_the_earlier_one_no_more(earlier: Path, tmp_path: Path) -> None:
    config, folder, said = a_run(start=str(earlier)), tmp_path / "begun", list[str]()
    first_model(config, folder, said.append)  # it has none yet: killed in its first round
    folder.mkdir()
    save_checkpoint(folder / CHECKPOINTS, Checkpoint(1, {}, {}, {}))
    shutil.rmtree(earlier)
    first_model(config, folder, said.append)
    assert len(said) == 1
    with pytest.raises(ModelError, match="no model"):
        first_model(config, tmp_path / "another")
