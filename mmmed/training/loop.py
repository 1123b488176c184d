"""The local training loop, the same for private and ordinary steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
import torch
from torch import nn

from mmmed.data.batch import Batch
from mmmed.training.losses import record_losses


class Step(Protocol):
    """One optimiser step. `privacy.dpsgd.PrivateStep` is the private one."""

    def __call__(self, losses: Callable[[], torch.Tensor], units: torch.Tensor, /) -> None:
        """Step on the (R,) losses that `losses()` computes; `units` (R,) int64 says whose records they are."""


class PlainStep:
    """An ordinary step on the mean over patients of the mean over a patient's records."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def __call__(self, losses: Callable[[], torch.Tensor], units: torch.Tensor) -> None:
        if len(units) == 0:
            return
        self._optimizer.zero_grad(set_to_none=True)
        counts = torch.bincount(units)
        weight = 1 / (counts[units] * (counts > 0).sum())
        (losses() * weight).sum().backward()
        self._optimizer.step()


def train(
    model: nn.Module,
    step: Step,
    draws: Iterable[np.ndarray],
    make_batch: Callable[[np.ndarray], Batch],
    *,
    after_step: Callable[[], None] = lambda: None,
) -> int:
    """Take one step for each draw of patients.

    Args:
        model: maps a Batch to logits; put into training mode.
        draws: arrays of patient indices, possibly empty (an empty Poisson draw is still a step).
        make_batch: from drawn patients to their batch.
        after_step: called after each step (progress, proximal pull).

    Returns:
        The number of steps taken.
    """
    model.train()
    device = next(model.parameters()).device
    steps = 0
    for patients in draws:
        batch = make_batch(patients).to(device)
        step(lambda batch=batch: record_losses(model(batch), batch.label), batch.unit)  # type: ignore[misc]
        steps += 1
        after_step()
    return steps
