"""Training on kept features is training with the frozen encoder in every step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from client.site import Site
from client.training import evaluate_round, train_round
from mmmed.config import RunConfig
from mmmed.data.loader import PatientBatches
from mmmed.models import FrozenEncoders, build_model, trainable_state
from mmmed.models.frozen import frozen_digest
from mmmed.models.fusion import FUSIONS
from mmmed.training import PlainStep, make_optimizer, train


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMMED_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("fusion", FUSIONS.sections)
def test_a_step_on_features_is_the_step_with_the_encoder(
    configured: Callable[..., RunConfig], site: Site, tmp_path: Path, fusion: str
) -> None:
    config = configured(
        model={"fusion": {"kind": fusion}, "trainable": "fusion-head"}, training={"learning_rate": 0.05}
    )
    whole, head = build_model(config), build_model(config)
    encoders = FrozenEncoders(head, config, tmp_path / "features")
    for model, data in ((whole, site.data), (head, encoders.site(site.data))):
        batches = PatientBatches(data.train, records_per_patient=2, seed=0)
        step = PlainStep(make_optimizer(model, config.training))
        train(model, config, step, [np.arange(6), np.arange(4, 12)], batches)
    assert sum(p.numel() for p in head.parameters()) == sum(
        v.numel() for v in trainable_state(whole).values()
    )
    for name, value in trainable_state(whole).items():
        torch.testing.assert_close(trainable_state(head)[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("trainable", ["fusion-head", "lora"])
def test_a_private_round_on_features(
    configured: Callable[..., RunConfig], site: Site, own_home: Path, trainable: str
) -> None:
    config = configured(
        model={"fusion": {"kind": "linear"}, "trainable": trainable}, training={"augment": True, "views": 2}
    )
    start = {name: value.clone() for name, value in trainable_state(build_model(config)).items()}
    parameters, spending = train_round(site, config, "run", 1, start)
    assert spending is not None and parameters.keys() == start.keys()
    assert set(evaluate_round(site, config, parameters)) == {
        "auroc",
        "auprc",
        "f1",
        "brier",
        "ece",
        "loss",
        "calibration",
    }
    kept = {path.name.split("-")[0] for path in (own_home / "features").glob("*.rows")}
    assert kept == ({"image", "text"} if trainable == "fusion-head" else {"image"})


def test_views_are_averaged_within_the_patient(configured: Callable[..., RunConfig], site: Site) -> None:
    """The patient's loss is the mean over all views of all its records."""
    config = configured(training={"augment": True, "views": 3})
    from client.mechanism import patient_batches

    batch = patient_batches(site.data.train, config, seed=0)(0, np.arange(5))
    once = patient_batches(site.data.train, configured(), seed=0)(0, np.arange(5))
    assert torch.equal(torch.bincount(batch.unit), 3 * torch.bincount(once.unit))
    assert torch.equal(batch.label, once.label.repeat_interleave(3))
    images = batch.inputs["image"].values
    assert not torch.equal(images[0], images[1]) or not torch.equal(images[1], images[2])


def test_views_need_augmentation(configured: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="Set augment = true"):
        configured(training={"views": 4})


def test_other_weights_have_other_features(configured: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = configured(model={"trainable": "fusion-head"})
    encoder = build_model(config).encoder("image")
    before = frozen_digest(encoder)
    assert frozen_digest(build_model(config).encoder("image")) == before
    next(p for p in encoder.parameters()).data.add_(1e-6)
    assert frozen_digest(encoder) != before
    assert isinstance(encoder, nn.Module)
