"""What every part of a model must keep: records are independent, and a private step is the definition's."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from mmmed.data.batch import Batch
from mmmed.models import MultimodalModel, trainable_state
from mmmed.tasks.base import Target
from privacy.dpsgd import PrivateStep
from tests.oracles.clipping import clipped_sum

_SMALL = {"tokens": 4, "decoder_width": 32, "decoder_layers": 1, "prefix": 2}
SMALL_TASK = {"report": _SMALL, "vqa": _SMALL}  # keys of tasks that would take long at their default size


def exact(model: MultimodalModel, batch: Batch) -> tuple[MultimodalModel, Batch]:
    """Both in float64."""
    inputs = {
        name: replace(one, values=one.values.double() if one.values.is_floating_point() else one.values)
        for name, one in batch.inputs.items()
    }
    return model.double(), replace(batch, inputs=inputs)


def check_independence(model: MultimodalModel, batch: Batch) -> None:
    """Each record's outputs are those that it has alone. Both are in float64."""
    model.eval()
    with torch.no_grad():
        together = model(batch)
        for row in range(len(batch)):
            torch.testing.assert_close(model(batch[row : row + 1]), together[row : row + 1])


def check_private_step(model: MultimodalModel, target: Target, batch: Batch) -> None:
    """A step without noise moves the parameters by the clipped sum that the oracle computes, some patient clipped.

    Args:
        model: in float64.
        target: the task.
        batch: in float64, of two patients or more.
    """

    def one_record(reference: nn.Module, record: int) -> torch.Tensor:
        row = batch[record : record + 1]
        return target.losses(reference(row), row.label).sum()

    reference, units = copy.deepcopy(model), int(batch.unit.max()) + 1
    bound = float(clipped_sum(reference, one_record, batch.unit, 1.0).norms.mean())
    expected = clipped_sum(reference, one_record, batch.unit, bound)
    assert float(expected.factors.min()) < 1 <= float(expected.factors.max())
    step = PrivateStep(
        model,
        torch.optim.SGD(model.parameters(), lr=1.0),
        noise_multiplier=0.0,
        allow_noiseless=True,
        max_grad_norm=bound,
        expected_units=units,
        engine="bookkeeping",
    )
    before = {name: value.clone() for name, value in trainable_state(model).items()}
    step(lambda: target.losses(model(batch), batch.label), batch.unit)
    for name, value in trainable_state(model).items():
        torch.testing.assert_close(
            before[name] - value, expected.sums[name] / units, rtol=1e-9, atol=1e-9 * bound
        )
