"""Adversarial training: each picture is made as hard as it can be within a small bound, by the model as it is.

Projected gradient ascent (Madry et al. 2018, arXiv 1706.06083, equation 2.1), in the largest change of a pixel, from
the picture itself: nothing is drawn. What a record becomes follows from that record and the parameters alone, so a
patient's clipped gradient is still that patient's, and the step's sensitivity is what it was. Records are computed one
by one: in a batch, how a slope is rounded could depend on who else is there, and its sign decides where a pixel goes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import nn

from mmmed.config.schema import TrainingConfig
from mmmed.data.batch import Batch
from mmmed.tasks.base import Target
from mmmed.training.losses import batch_losses

_STRIDE = 2.5  # times the bound, over all steps together: enough to reach it and come back


def hardened(
    model: nn.Module, target: Target, batch: Batch, training: TrainingConfig, pictures: Collection[str]
) -> Batch:
    """The batch with pictures that the model finds harder; its parameters and their gradients stay as they are.

    Args:
        model: maps a Batch to (R, outputs). It looks at the pictures without dropout, and is in training mode after it.
        target: the task.
        batch: R records.
        training: the run's.
        pictures: names of the inputs that are changed: float in [0, 1], by `training.adversarial` at most.
    """
    model.eval()
    each = [_hardened(model, target, batch[slice(i, i + 1)], training, pictures) for i in range(len(batch))]
    model.train()
    inputs = dict(batch.inputs)
    for name in pictures:
        inputs[name] = replace(inputs[name], values=torch.cat([one[name] for one in each]))
    return replace(batch, inputs=inputs)


def _hardened(
    model: nn.Module, target: Target, record: Batch, training: TrainingConfig, pictures: Collection[str]
) -> dict[str, torch.Tensor]:
    """The pictures of one record."""
    bound, steps = training.adversarial, training.adversarial_steps
    found = {name: record.inputs[name].values for name in pictures}
    for _ in range(steps):
        asked = {name: values.detach().requires_grad_() for name, values in found.items()}
        inputs = {name: replace(record.inputs[name], values=values) for name, values in asked.items()}
        given = replace(record, inputs=dict(record.inputs) | inputs)
        losses = batch_losses(model, target, given, training.precision)
        slopes = torch.autograd.grad(losses.sum(), list(asked.values()))
        for (name, values), slope in zip(asked.items(), slopes, strict=True):
            plain = record.inputs[name].values
            moved = values.detach() + _STRIDE * bound / steps * slope.nan_to_num(0, 0, 0).sign()
            found[name] = torch.minimum(torch.maximum(moved, plain - bound), plain + bound).clamp(0, 1)
    return found
