"""One loss a record: nothing is averaged over a batch, so that each patient's gradient stays its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from mmmed.config.schema import Precision
from mmmed.data.batch import Batch


def batch_losses(model: nn.Module, batch: Batch, precision: Precision) -> torch.Tensor:
    """(R,) float32 losses of a batch's R records.

    With bfloat16 the model runs under autocast. The loss, the parameters and what is released stay in float32.
    """
    with torch.autocast(batch.label.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        logits = model(batch)
    return record_losses(logits.float(), batch.label)


def record_losses(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """(R, 1) or (R, K) logits and (R,) int64 labels -> (R,) cross-entropy losses."""
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], label.to(logits.dtype), reduction="none")
    return F.cross_entropy(logits, label, reduction="none")


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """(R, 1) or (R, K) logits -> (R, K) class probabilities (K = 2 for one logit)."""
    if logits.shape[1] == 1:
        positive = torch.sigmoid(logits)
        return torch.cat([1 - positive, positive], dim=1)
    return torch.softmax(logits, dim=1)
