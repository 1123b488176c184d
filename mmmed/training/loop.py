"""The local training loop, the same for private and ordinary steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import nn

from mmmed.config import RunConfig
from mmmed.data.batch import Batch, parts
from mmmed.errors import ModelError
from mmmed.modalities import MODALITIES
from mmmed.modalities.base import Modality
from mmmed.training.adversarial import hardened
from mmmed.training.losses import batch_losses


def part_size(config: RunConfig) -> int:
    """How many records of a run are computed together in training: as few as its largest trained part asks for.

    A frozen encoder asks for nothing: its features are there before.
    """
    parts = [config.model.fusion.together, config.task.together]
    return min([*parts, *(one.together for one in _trained(config))])


def _trained(config: RunConfig) -> Iterator[Modality]:
    """The modalities whose encoders training computes."""
    trainable = config.model.trainable
    for one in (MODALITIES[name] for name in config.data.modalities):
        frozen = trainable in ("fusion-head", "lora") and not one.joins_fusion
        if not frozen or (trainable == "lora" and one.adapters):
            yield one


def attacked(config: RunConfig) -> tuple[str, ...]:
    """The modalities whose pictures `training.adversarial` makes harder: those whose encoders training computes.

    Raises:
        ModelError: it is asked for, and there is none.
    """
    if not config.training.adversarial:
        return ()
    found = tuple(one.name for one in _trained(config) if one.pictured)
    if not found:
        raise ModelError(
            f"training.adversarial = {config.training.adversarial} changes pictures, and model.trainable = "
            f'"{config.model.trainable}" trains no encoder of any that the run reads. Set model.trainable = "full", or '
            "training.adversarial = 0"
        )
    return found


class Step(Protocol):
    """An optimiser step on a batch given in parts. `privacy.dpsgd.PrivateStep` is the private one."""

    def accumulate(
        self, record_losses: Callable[[], torch.Tensor], units: torch.Tensor, copies: int = 0
    ) -> None:
        """Take in one part: (R + copies,) losses, and whose the first R are, (R,) int64; the others count for nothing.

        Units are not split over parts.
        """

    def finish(self) -> None:
        """Take the step with what was accumulated; without any part, as for an empty batch."""

    def try_on(self, losses: Callable[[torch.Tensor], torch.Tensor], units: torch.Tensor) -> None:
        """Find out, on made-up records, whatever a batch could be refused for. Nothing is moved.

        Args:
            losses: from rows int64 (r,) of the made-up records to their losses (r,).
            units: int64 (records,), whose each is.
        """


class PlainStep:
    """An ordinary step on the mean over patients of the mean over a patient's records.

    Args:
        optimizer: moves the parameters.
        divisor: of the sum over patients; their number if None.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, divisor: float | None = None) -> None:
        self._optimizer, self._divisor = optimizer, divisor
        self._patients = 0

    def accumulate(
        self, record_losses: Callable[[], torch.Tensor], units: torch.Tensor, copies: int = 0
    ) -> None:
        counts = torch.bincount(units)
        (record_losses()[: len(units)] / counts[units]).sum().backward()
        self._patients += int((counts > 0).sum())

    def finish(self) -> None:
        if self._patients:
            for group in self._optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad /= self._divisor or self._patients
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._patients = 0

    def try_on(self, losses: Callable[[torch.Tensor], torch.Tensor], units: torch.Tensor) -> None:
        """Nothing to find out: it refuses no batch."""


def train(
    model: nn.Module,
    config: RunConfig,
    step: Step,
    draws: Iterable[np.ndarray],
    make_batch: Callable[[int, np.ndarray], Batch],
    *,
    centring: bool = False,
    after_step: Callable[[], None] = lambda: None,
) -> int:
    """Take one step for each draw of patients.

    Parts have one shape (`mmmed.data.batch.parts`), unless the step is a `PlainStep`: what another step releases must
    not depend on how many others are there, not by rounding either.

    Args:
        model: maps a Batch to (R, outputs); put into training mode.
        config: the run's: its task, its precision, and how many records are computed together (`part_size`).
        step: is given the losses of each batch, part by part.
        draws: arrays of patient indices, possibly empty (an empty Poisson draw is still a step).
        make_batch: from the step's number (0 for the first) and its drawn patients to their batch.
        centring: whether the steps learn the features' mean (`Fusion.is_centring`).
        after_step: called after each step (progress, proximal pull).

    Returns:
        The number of steps taken.
    """
    model.train()
    device = next(model.parameters()).device
    target, together, filled = config.task.target(), part_size(config), not isinstance(step, PlainStep)
    pictures = attacked(config)
    steps = 0
    for patients in draws:
        batch = make_batch(steps, patients)
        for rows, unit in parts(batch.unit, together, filled=filled):
            part, precision = batch[rows].to(device), config.training.precision
            if pictures and not centring:
                part = hardened(model, target, part, config.training, pictures)
            losses = partial(batch_losses, model, target, part, precision, centring=centring)
            step.accumulate(losses, unit.to(device), len(rows) - len(unit))
        step.finish()
        steps += 1
        after_step()
    return steps
