"""The local training loop, the same for private and ordinary steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
import torch
from torch import nn

from mmmed.config.schema import Precision
from mmmed.data.batch import Batch
from mmmed.training.losses import batch_losses

MICROBATCH = 24  # records whose activations are held at once; the step is the same whatever it is


class Step(Protocol):
    """An optimiser step on a batch given in parts. `privacy.dpsgd.PrivateStep` is the private one."""

    def accumulate(self, record_losses: Callable[[], torch.Tensor], units: torch.Tensor) -> None:
        """Take in one part: (R,) losses, and whose records they are, (R,) int64. Units are not split over parts."""

    def finish(self) -> None:
        """Take the step; without any part it is the step of an empty batch."""


class PlainStep:
    """An ordinary step on the mean over patients of the mean over a patient's records."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._patients = 0

    def accumulate(self, record_losses: Callable[[], torch.Tensor], units: torch.Tensor) -> None:
        counts = torch.bincount(units)
        (record_losses() / counts[units]).sum().backward()
        self._patients += int((counts > 0).sum())

    def finish(self) -> None:
        if self._patients:
            for group in self._optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad /= self._patients
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._patients = 0


def train(
    model: nn.Module,
    step: Step,
    draws: Iterable[np.ndarray],
    make_batch: Callable[[int, np.ndarray], Batch],
    *,
    precision: Precision = "float32",
    after_step: Callable[[], None] = lambda: None,
) -> int:
    """Take one step for each draw of patients.

    Args:
        model: maps a Batch to logits; put into training mode.
        draws: arrays of patient indices, possibly empty (an empty Poisson draw is still a step).
        make_batch: from the step's number (0 for the first) and its drawn patients to their batch.
        precision: of the forward and backward pass.
        after_step: called after each step (progress, proximal pull).

    Returns:
        The number of steps taken.
    """
    model.train()
    device = next(model.parameters()).device
    steps = 0
    for patients in draws:
        for part in make_batch(steps, patients).parts(MICROBATCH):
            _accumulate(model, step, part.to(device), precision)
        step.finish()
        steps += 1
        after_step()
    return steps


def _accumulate(model: nn.Module, step: Step, part: Batch, precision: Precision) -> None:
    step.accumulate(lambda: batch_losses(model, part, precision), part.unit)
