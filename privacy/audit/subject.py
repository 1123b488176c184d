"""What is audited: a step, a sampler, a model on synthetic records, and what is claimed of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import nn

from privacy.accounting import DpSgdEvent
from privacy.clipping.engine import EngineName, RecordLosses
from privacy.clipping.rules import Clipping
from privacy.dpsgd import PrivateStep
from privacy.errors import StepError
from privacy.noise import PrivateRandom
from privacy.sampling import PoissonSampler


class Step(Protocol):
    """One private step: clip, add noise, divide, and call the optimiser (`privacy.dpsgd.PrivateStep`)."""

    def __call__(self, record_losses: RecordLosses, units: torch.Tensor) -> None: ...


@dataclass(frozen=True)
class Subject:
    """The code and settings under audit. The records are synthetic: an audit costs no budget.

    Attributes:
        make_model: a new model, on its device, in training mode.
        losses: (model, rows int64 [R]) -> the losses [R] of those records, as in training. It calls the model.
        units: int64 [records], the unit (patient) of each synthetic record, numbered from 0 without gaps. At
            least 10 units; one with two records or more if patients have several. The first record of unit 0
            is the one whose influence C7 tries: an outlier shows most.
        make_step: (model, optimiser, noise multiplier) -> the step that a site takes, around that optimiser.
        make_sampler: (number of units, number of steps) -> the unit indices of each step.
        claim: noise multiplier, sampling rate and steps that the accountant is told.
        delta: of the claimed epsilon.
        max_grad_norm: C, as claimed.
        expected_units: the public number that the noisy sum is divided by.
    """

    make_model: Callable[[], nn.Module]
    losses: Callable[[nn.Module, torch.Tensor], torch.Tensor]
    units: torch.Tensor
    make_step: Callable[[nn.Module, torch.optim.Optimizer, float], Step]
    make_sampler: Callable[[int, int], Iterable[np.ndarray]]
    claim: DpSgdEvent
    delta: float
    max_grad_norm: float
    expected_units: float

    def __post_init__(self) -> None:
        """
        Raises:
            StepError: `units` are not numbered from 0 without gaps, or fewer than 10.
        """
        names = self.units.unique()
        if len(names) < 10 or not torch.equal(names, torch.arange(len(names))):
            raise StepError(
                "An audit needs synthetic records of at least 10 units, numbered from 0 without gaps. Found "
                f"{len(names)} units from {int(self.units.min()) if len(names) else '-'}."
            )


def dpsgd_subject(
    make_model: Callable[[], nn.Module],
    losses: Callable[[nn.Module, torch.Tensor], torch.Tensor],
    units: torch.Tensor,
    claim: DpSgdEvent,
    *,
    delta: float,
    max_grad_norm: float,
    expected_units: float,
    clipping: Clipping = "flat",
    engine: EngineName = "bookkeeping",
) -> Subject:
    """The step and the sampler that sites run, with their settings, on a model and synthetic records.

    The arguments are those of `Subject` and `privacy.dpsgd.PrivateStep`.
    """

    def make_step(model: nn.Module, optimizer: torch.optim.Optimizer, noise_multiplier: float) -> Step:
        return PrivateStep(
            model,
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_units=expected_units,
            clipping=clipping,
            engine=engine,
        )

    def make_sampler(n_units: int, steps: int) -> PoissonSampler:
        return PoissonSampler(n_units, claim.sampling_rate, steps, PrivateRandom())

    return Subject(
        make_model, losses, units, make_step, make_sampler, claim, delta, max_grad_norm, expected_units
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Set every public random state, and restore it at the end. Noise that repeats with it is no noise."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  what faulty code would use
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
