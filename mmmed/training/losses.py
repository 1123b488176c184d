"""One loss a record: nothing is averaged over a batch, so that each patient's gradient stays its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F


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
