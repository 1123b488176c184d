"""What is audited: a step, a sampler, batches, a model on synthetic records, and what is claimed of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn

from privacy.accounting import DpSgdEvent
from privacy.audit.laws import LATTICE
from privacy.clipping.engine import EngineName
from privacy.clipping.rules import Clipping
from privacy.clipping.validate import trainable
from privacy.dpsgd import PrivateStep
from privacy.errors import StepError
from privacy.noise import PrivateRandom
from privacy.sampling import PoissonSampler

_TRIED_UNITS = 2

Part = torch.Tensor | slice  # of a batch's records: int64 [r], or a slice
PartLosses = Callable[[Part], torch.Tensor]  # -> their losses [r]
Batch = tuple[
    Callable[[nn.Module, Part], torch.Tensor], torch.Tensor
]  # (model, part) -> losses; each record's unit
Batches = Callable[[np.ndarray], Batch]  # drawn units -> their batch


class Step(Protocol):
    """One private step on a batch: clip, add noise, divide, and call the optimiser.

    It may ask for the losses of the whole batch at once or part by part, as the training loop does.
    """

    def __call__(self, losses: PartLosses, units: torch.Tensor) -> None: ...


@runtime_checkable
class TriedStep(Protocol):
    """A step that wants to be tried on made-up records first: (rows int64 [r] -> losses [r]), their units."""

    def try_on(self, losses: Callable[[torch.Tensor], torch.Tensor], units: torch.Tensor) -> None: ...


class WholeBatch:
    """Adapts a `PrivateStep` to the protocol `Step`: each batch is given to it whole."""

    def __init__(self, step: PrivateStep) -> None:
        self.private = step
        self.try_on = step.try_on

    def __call__(self, losses: PartLosses, units: torch.Tensor) -> None:
        self.private(lambda: losses(slice(None)), units)


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
        draw: drawn units int64 [U] -> (rows int64 [R], the unit of each: its place in the draw), as batches are made.
        records_per_unit: the most records of one unit in a batch.
        make_optimizer: the optimiser that a site trains with.
        released: names of the parameters that leave a site.
        claim: noise multiplier, sampling rate and steps that the accountant is told.
        delta: of the claimed epsilon.
        max_grad_norm: C, as claimed.
        expected_units: the public number that the noisy sum is divided by.
        open_round: (units present, int64) -> the batches of one round on a data set that holds these units alone, made
            in order as a site makes them (chosen records, views, all of it) from the same public seeds. If None,
            batches are made by `draw` and `losses`.
        lattice: gap between the values that the noise can take, in its standard deviations: a constant of the code.
        folders: where the step, the loader and the optimiser may leave files.
    """

    make_model: Callable[[], nn.Module]
    losses: Callable[[nn.Module, torch.Tensor], torch.Tensor]
    units: torch.Tensor
    make_step: Callable[[nn.Module, torch.optim.Optimizer, float], Step]
    make_sampler: Callable[[int, int], Iterable[np.ndarray]]
    draw: Callable[[np.ndarray], tuple[torch.Tensor, torch.Tensor]]
    records_per_unit: int
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    released: Callable[[nn.Module], Collection[str]]
    claim: DpSgdEvent
    delta: float
    max_grad_norm: float
    expected_units: float
    open_round: Callable[[np.ndarray], Batches] | None = None
    lattice: float = LATTICE
    folders: tuple[Path, ...] = ()

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

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, noise_multiplier: float) -> Step:
        """A new step; one that can be tried is first tried on synthetic records, as a site does."""
        step = self.make_step(model, optimizer, noise_multiplier)
        if isinstance(step, TriedStep):
            rows = torch.cat([torch.nonzero(self.units == unit)[0] for unit in range(_TRIED_UNITS)])
            step.try_on(lambda chosen: self.losses(model, rows[chosen]), self.units[rows])
        return step

    def round(self, present: np.ndarray) -> Batches:
        """The batches of one round on a data set of the units `present` alone."""
        return self.open_round(present) if self.open_round is not None else self._batch

    def _batch(self, drawn: np.ndarray) -> Batch:
        rows, units = self.draw(drawn)
        return lambda model, part: self.losses(model, rows[part]), units


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

    Args:
        make_model: a new model, on its device, in training mode.
        losses: (model, rows int64 [R]) -> the losses [R] of those records, as in training.
        units: int64 [records], the unit (patient) of each synthetic record, from 0 without gaps; at least 10 units.
        claim: noise multiplier, sampling rate and steps that the accountant is told.
        delta: of the claimed epsilon.
        max_grad_norm: C, the bound on one unit's gradient.
        expected_units: q N, by which the noisy sum is divided.
        clipping: rule of `privacy.clipping.rules`.
        engine: how gradients are clipped.

    Raises:
        StepError: `units` are not numbered from 0 without gaps, or fewer than 10.
    """

    def make_step(model: nn.Module, optimizer: torch.optim.Optimizer, noise_multiplier: float) -> Step:
        return WholeBatch(
            PrivateStep(
                model,
                optimizer,
                noise_multiplier=noise_multiplier,
                max_grad_norm=max_grad_norm,
                expected_units=expected_units,
                clipping=clipping,
                engine=engine,
            )
        )

    def make_sampler(n_units: int, steps: int) -> PoissonSampler:
        return PoissonSampler(n_units, claim.sampling_rate, steps, PrivateRandom())

    records = [torch.nonzero(units == unit).flatten() for unit in range(int(units.max()) + 1)]

    def draw(drawn: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = [records[unit] for unit in drawn]
        sizes = torch.tensor([len(one) for one in chosen], dtype=torch.int64)
        rows = torch.cat([torch.zeros(0, dtype=torch.int64), *chosen])
        return rows, torch.arange(len(chosen)).repeat_interleave(sizes)

    return Subject(
        make_model=make_model,
        losses=losses,
        units=units,
        make_step=make_step,
        make_sampler=make_sampler,
        draw=draw,
        records_per_unit=max(map(len, records)),
        make_optimizer=lambda model: torch.optim.SGD(trainable(model).values(), lr=0.1),
        released=lambda model: trainable(model).keys(),
        claim=claim,
        delta=delta,
        max_grad_norm=max_grad_norm,
        expected_units=expected_units,
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
