"""Pictures made harder in training: within the bound, each record by itself, and the step stays exact."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mmmed.config import RunConfig
from mmmed.data.batch import Batch, Input
from mmmed.data.made_up import made_up_records
from mmmed.errors import ModelError
from mmmed.models import MultimodalModel, build_model
from mmmed.tasks import Classification
from mmmed.training import train
from mmmed.training.adversarial import hardened
from mmmed.training.loop import attacked
from privacy.dpsgd import PrivateStep
from tests.contracts.steps import exact
from tests.contracts.test_modality import SHORT
from tests.oracles.clipping import clipped_sum

TARGET = Classification().target()
BOUND = 0.05


def a_run(trainable: str = "full", **data: object) -> RunConfig:
    keys = {"image_size": 16, "text_tokens": 8, "audio": "sound", **SHORT, **data}
    model = {"image_width": 8, "audio_width": 8, "trainable": trainable, "fusion": {"width": 8, "heads": 2}}
    training = {"adversarial": BOUND, "adversarial_steps": 4}
    return RunConfig.model_validate({"data": keys, "model": model, "training": training})


def made_up(config: RunConfig, patients: int = 4) -> tuple[MultimodalModel, Batch]:
    records = made_up_records(config, patients)
    model = build_model(config)
    nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    return exact(model, records.batch(np.arange(len(records)), records.patient))


def made_up_inputs(batch: Batch) -> dict[str, Input]:
    """In float32, as they are in training."""
    return {
        name: replace(one, values=one.values.float() if one.values.is_floating_point() else one.values)
        for name, one in batch.inputs.items()
    }


def test_pictures_become_harder_within_the_bound_and_nothing_else_changes() -> None:
    config = a_run()
    model, batch = made_up(config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    harder = hardened(model, TARGET, batch, config.training, attacked(config))
    change = harder.inputs["image"].values - batch.inputs["image"].values
    assert 0.9 * BOUND < change.abs().max() <= BOUND + 1e-12
    assert harder.inputs["image"].values.min() >= 0 and harder.inputs["image"].values.max() <= 1
    assert all(harder.inputs[name] is batch.inputs[name] for name in ("text", "audio"))
    plain, hard = (TARGET.losses(model.eval()(one), one.label) for one in (batch, harder))
    there = batch.inputs["image"].present[:, 0]
    assert (hard[there] > plain[there]).all() and torch.equal(hard[~there], plain[~there])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_each_record_becomes_what_it_becomes_alone() -> None:
    config = a_run()
    model, batch = made_up(config)
    model, batch = model.float(), replace(batch, inputs=made_up_inputs(batch))
    together = hardened(model, TARGET, batch, config.training, ("image",)).inputs["image"].values
    for row in range(len(batch)):
        alone = hardened(model, TARGET, batch[slice(row, row + 1)], config.training, ("image",))
        assert torch.equal(alone.inputs["image"].values[0], together[row])


def test_a_private_step_on_harder_pictures_is_the_definitions() -> None:
    config = a_run()
    model, batch = made_up(config)
    reference = copy.deepcopy(model).train()

    def one_record(oracle: nn.Module, record: int) -> torch.Tensor:
        row = hardened(reference, TARGET, batch[slice(record, record + 1)], config.training, ("image",))
        return TARGET.losses(oracle(row), row.label).sum()

    units, bound = int(batch.unit.max()) + 1, 0.3
    expected = clipped_sum(reference, one_record, batch.unit, bound)
    assert float(expected.factors.min()) < 1
    step = PrivateStep(
        model, torch.optim.SGD(model.parameters(), lr=1.0), noise_multiplier=0.0, allow_noiseless=True,
        max_grad_norm=bound, expected_units=units,
    )  # fmt: skip
    train(model, config, step, [np.arange(units)], lambda *_: batch)
    for name, parameter in reference.named_parameters():
        moved = parameter.detach() - model.get_parameter(name).detach()
        torch.testing.assert_close(moved * units, expected.sums[name], rtol=1e-9, atol=1e-9)


def test_a_loss_that_is_no_number_moves_no_pixel() -> None:
    config = a_run()
    model, batch = made_up(config)
    broken = replace(batch, label=batch.label.double() * torch.inf)
    harder = hardened(model, TARGET, broken, config.training, ("image",))
    assert torch.isfinite(harder.inputs["image"].values).all()


def test_where_no_encoder_of_pictures_is_trained_it_is_refused() -> None:
    assert attacked(a_run()) == ("image",)
    with pytest.raises(
        ModelError, match=r'training\.adversarial = 0\.05 .* model\.trainable = "fusion-head"'
    ):
        attacked(a_run("fusion-head"))
    with pytest.raises(ModelError, match="trains no encoder of any that the run reads"):
        attacked(a_run(image=""))
