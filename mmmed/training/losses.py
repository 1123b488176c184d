"""The losses of a batch's records."""

from __future__ import annotations

import torch
from torch import nn

from mmmed.config.schema import Precision
from mmmed.data.batch import Batch
from mmmed.tasks.base import Target


def batch_losses(
    model: nn.Module, target: Target, batch: Batch, precision: Precision, *, centring: bool = False
) -> torch.Tensor:
    """(R,) float32 losses of a batch's R records.

    With bfloat16 the model runs under autocast. The loss, the parameters and what is released stay in float32.

    Args:
        model: maps a Batch to (R, outputs).
        target: the task.
        batch: the records.
        precision: of the forward and backward pass.
        centring: those of a step that learns the features' mean (`Fusion.is_centring`) instead of the task's.
    """
    if centring:
        losses: torch.Tensor = model(batch, centring=True)
        return losses
    with torch.autocast(batch.label.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        outputs = model(batch)
    return target.losses(outputs.float(), batch.label)
