"""What holds for every fusion in the registry, and for one that a test adds through the registry alone."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner

from mmmed.cli import app
from mmmed.config import RunConfig, from_flat, resolve, to_flat, to_toml
from mmmed.data.batch import Batch
from mmmed.errors import ConfigError
from mmmed.modalities import MODALITIES
from mmmed.models import MultimodalModel, build_model, load_model, save_model, trainable_state
from mmmed.models.fusion import FUSIONS
from mmmed.tasks import TASKS, Classification
from tests.contracts.maximum import Maximum
from tests.contracts.signal import Signal
from tests.contracts.steps import SMALL_TASK, check_independence, check_private_step, exact
from tests.contracts.test_modality import SMALL, a_run, made_up
from tests.mmmed.models.test_models import EVERYTHING, a_batch, changed, configured, set_row, without

CLASSES = Classification().target()
EVERY = pytest.mark.parametrize("kind", [*FUSIONS.sections, "maximum"])
CHEAP = ("text", "table")


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(FUSIONS.sections, "maximum", Maximum)
    monkeypatch.setitem(MODALITIES, "signal", Signal())
    yield


@pytest.fixture(scope="module")
def models() -> dict[str, MultimodalModel]:
    """A model of each fusion, of the modalities that cost little."""
    return {
        kind: made_up(a_run(*CHEAP, model={"fusion": {"kind": kind}}))[0].eval() for kind in FUSIONS.sections
    }


@pytest.fixture(scope="module")
def whole() -> Batch:
    return made_up(a_run(*CHEAP), patients=2)[1]


def of_everything(kind: str) -> tuple[MultimodalModel, Batch]:
    small = {"image_width": 8, "volume_width": 8, "fusion": {"kind": kind}}
    model = build_model(configured(data=EVERYTHING, model=small))
    nn.init.normal_(model.head.weight)  # one that starts at zero would hide all before it
    return model, a_batch()


@EVERY
def test_a_missing_modality_does_not_reach_the_output(kind: str) -> None:
    model, batch = of_everything(kind)
    model, nothing = model.eval(), batch
    assert set(model.modalities) == set(batch.inputs)
    with torch.no_grad():
        full = model(batch)
        for name, one in batch.inputs.items():
            missing, nothing = without(batch, name), without(nothing, name)
            expected = model(missing)
            assert not torch.allclose(expected[0], full[0])
            other = one.values[[1]].flip(-1)[0]  # what another record holds
            garbage = changed(missing, name, values=set_row(one.values, 0, other))
            torch.testing.assert_close(model(garbage), expected)
        assert torch.isfinite(model(nothing)).all()


@EVERY
def test_a_missing_modality_has_no_gradient(kind: str) -> None:
    model, batch = of_everything(kind)
    for name, one in batch.inputs.items():
        model.zero_grad()
        absent = changed(batch, name, present=torch.zeros_like(one.present))
        CLASSES.losses(model(absent), batch.label).sum().backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert all(torch.isfinite(g).all() for g in gradients.values())
        own = [g for n, g in gradients.items() if n.startswith(f"{name}.")]
        assert all((g == 0).all() for g in own)


@EVERY
def test_records_are_independent(kind: str) -> None:
    check_independence(*exact(*of_everything(kind)))


@EVERY
def test_a_private_step_with_every_modality_is_the_definitions(kind: str) -> None:
    """All default encoders at once, on records that lack this or that."""
    config = a_run(*MODALITIES, model={**SMALL["model"], "fusion": {"kind": kind}})
    model, batch = exact(*made_up(config, patients=3))
    check_private_step(model, CLASSES, batch)


@pytest.mark.parametrize("task", [one for one in TASKS.sections if one != "vqa"])  # which writes as a report
@EVERY
def test_a_private_step_of_every_task_is_the_definitions(kind: str, task: str) -> None:
    config = a_run(
        "table",
        "signal",
        model={"fusion": {"kind": kind}},
        task={"kind": task, **SMALL_TASK.get(task, {})},
        privacy={"metrics": "none"},
    )
    model, batch = exact(*made_up(config, patients=3))
    check_private_step(model, config.task.target(), batch)


@settings(deadline=None, max_examples=6)
@given(data=st.data())
def test_what_is_absent_may_be_anything(
    models: dict[str, MultimodalModel], whole: Batch, data: st.DataObject
) -> None:
    """Any modalities of any records, all of a record's too, with any numbers in their place."""
    batch = anything = whole
    for name, one in whole.inputs.items():
        size = len(whole)
        gone = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size), label=name))
        numbers = st.integers(0, 200) if name == "text" else st.floats(-1e6, 1e6, width=32)
        present, values = one.present & ~gone[:, None], one.values.clone()
        values[gone] = data.draw(numbers, label="instead")
        batch = changed(batch, name, present=present)
        anything = changed(anything, name, present=present, values=values)
    for kind, model in models.items():
        with torch.no_grad():
            expected = model(batch)
            assert torch.isfinite(expected).all(), kind
            torch.testing.assert_close(model(anything), expected, msg=kind)


@EVERY
def test_its_section_travels_and_its_model_is_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    config = configured(data=EVERYTHING, model={"fusion": {"kind": kind}})
    assert config.model.fusion.kind == kind
    assert from_flat(to_flat(config)) == config and hash(from_flat(to_flat(config))) == hash(config)
    assert RunConfig.model_validate(tomllib.loads(to_toml(config))) == config
    model, batch = build_model(config), a_batch()
    save_model(tmp_path, model, config)
    loaded, again = load_model(tmp_path)
    assert again == config
    with torch.no_grad():
        torch.testing.assert_close(loaded(batch), model.eval()(batch), rtol=0, atol=0)


@EVERY
@pytest.mark.parametrize("trainable", ["norm-bias", "fusion-head"])
def test_what_follows_the_encoders_trains_in_every_trainable_set(kind: str, trainable: str) -> None:
    config = configured(data=EVERYTHING, model={"fusion": {"kind": kind}, "trainable": trainable})
    trained = set(trainable_state(build_model(config)))
    assert {"head.weight", "head.bias"} <= trained
    if trainable == "fusion-head":
        assert not any(name.startswith(("image.", "text.", "volume.")) for name in trained)


def test_a_fusion_that_is_registered_is_valid_everywhere() -> None:
    config = resolve(
        None, ["model.fusion.kind=maximum", "model.fusion.size=8", "model.fusion.names=['b', 'c']"]
    )
    assert config.config.model.fusion == Maximum(size=8, names=("b", "c"))
    assert from_flat(to_flat(config.config)) == config.config
    shown = CliRunner().invoke(app, ["config", "show", "--set", "model.fusion.kind=maximum"]).output
    assert "model.fusion.size" in shown and "model.fusion.heads" not in shown
    with pytest.raises(ConfigError, match=r"'maximum', which has no key 'heads'. Its keys: size, names"):
        resolve(None, ["model.fusion.kind=maximum", "model.fusion.heads=2"])


def test_a_fusion_that_is_not_registered_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(FUSIONS.sections, "maximum")
    with pytest.raises(
        ConfigError, match=r"model\.fusion\.kind: Input should be 'attention' or 'linear' or 'concat'"
    ):
        resolve(None, ["model.fusion.kind=maximum"])
