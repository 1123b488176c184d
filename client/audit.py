"""What `mmmed privacy audit` examines: a run's own model, step, sampler and batches, on made-up records.

No patient is read and no budget is spent.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count

import numpy as np
import torch
from torch import nn

from client.mechanism import patient_batches, private_draws, private_step
from client.model import device, made_up, open_model
from client.trial import try_run
from mmmed.config import RunConfig
from mmmed.data.batch import parts
from mmmed.data.loader import Records
from mmmed.models import trainable_state
from mmmed.training import batch_losses, make_optimizer
from mmmed.training.loop import part_size
from privacy.accounting import DpSgdEvent
from privacy.audit import LATTICE, Batch, Batches, Part, PartLosses, Step, Subject
from privacy.dpsgd import PrivateStep, sensitivity
from privacy.secure_sum.lattice import Lattice, step_of


class _InParts:
    """The private step, given a batch part by part as `mmmed.training.train` gives it."""

    def __init__(self, step: PrivateStep, together: int) -> None:
        self._step, self._together = step, together

    def __call__(self, losses: PartLosses, units: torch.Tensor) -> None:
        for rows, unit in parts(units, self._together, filled=True):
            self._step.accumulate(partial(losses, rows), unit, len(rows) - len(unit))
        self._step.finish()


class _OneOfSites:
    """A step of masked sums where this site alone has patients: the others that are relied upon add their noise.

    Without masks, which cancel in the sum. Clipping, lattice and each site's share of the noise are those of a run
    (`client.secure_steps`).
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, step: PrivateStep, config: RunConfig
    ) -> None:
        self._optimizer, self._step, self._config = optimizer, step, config
        self._parameters = dict(model.named_parameters())

    def __call__(self, losses: PartLosses, units: torch.Tensor) -> None:
        for rows, unit in parts(units, part_size(self._config), filled=True):
            self._step.accumulate(partial(losses, rows), unit, len(rows) - len(unit))
        clipped = self._step.finish_without_noise()
        vector = torch.cat([one.double().cpu().flatten() for one in clipped.values()]).numpy()
        lattice = self._lattice(len(vector))
        steps = lattice.noised(vector)
        for _ in range(lattice.honest - 1):
            steps += lattice.noised(np.zeros_like(vector))
        total = torch.from_numpy(lattice.decode(steps.view(lattice.word))) / self._config.training.batch_size
        for name, part in zip(clipped, total.split([one.numel() for one in clipped.values()]), strict=True):
            parameter = self._parameters[name]
            parameter.grad = part.view_as(parameter).to(parameter)
        self._optimizer.step()

    def _lattice(self, dimension: int) -> Lattice:
        clip, honest = sensitivity(self._config.privacy.max_grad_norm), self._config.federation.honest
        noise = float(self._step.optimizer.noise_multiplier)
        fine = step_of(noise * clip / math.sqrt(honest))  # where an audit asks for next to no noise
        return Lattice(min(step_of(clip), 2**16 * fine), 64, honest, dimension, clip, noise, honest)


@contextmanager
def run_subject(config: RunConfig, event: DpSgdEvent) -> Iterator[Subject]:
    """What a site runs under `config` with the mechanism `event`, on records that are made up.

    Raises:
        ModelError: the model cannot be built.
    """
    model, records = open_model(config).to(device()), made_up(config)
    batches, target = patient_batches(records, config, seed=0), config.task.target()

    def losses(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        batch = records.batch(rows.numpy(), np.arange(len(rows))).to(device())
        return batch_losses(model, target, batch, config.training.precision)

    def draw(drawn: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        chosen, unit = batches.choose(0, drawn)
        return torch.from_numpy(chosen), torch.from_numpy(unit)

    def make_step(model: nn.Module, optimizer: torch.optim.Optimizer, noise_multiplier: float) -> Step:
        try_run(config)  # once, as a site does before it trains
        step = private_step(model, optimizer, config, noise_multiplier, tried=True)
        if config.federation.release == "secure-steps":
            return _OneOfSites(model, optimizer, step, config)
        return _InParts(step, part_size(config))

    yield Subject(
        make_model=lambda: copy.deepcopy(model).train(),
        losses=losses,
        units=torch.from_numpy(records.patient),
        make_step=make_step,
        make_sampler=lambda units, steps: private_draws(units, event.sampling_rate, steps),
        draw=draw,
        records_per_unit=config.training.records_per_patient,
        make_optimizer=lambda model: make_optimizer(model, config.training),
        released=lambda model: trainable_state(model).keys(),
        claim=event,
        delta=config.privacy.delta,
        max_grad_norm=config.privacy.max_grad_norm,
        expected_units=config.training.batch_size,
        open_round=_rounds(records, config),
        lattice=_lattice_of(config, event),
    )


def _lattice_of(config: RunConfig, event: DpSgdEvent) -> float:
    """The gap between values of the noise, in its deviations."""
    if config.federation.release != "secure-steps":
        return LATTICE
    clip = sensitivity(config.privacy.max_grad_norm)
    return step_of(clip) / (event.noise_multiplier * clip)


def _rounds(records: Records, config: RunConfig) -> Callable[[np.ndarray], Batches]:
    """The first round of a site that has only some of the patients, made as `client.training` makes it."""

    def open_round(present: np.ndarray) -> Batches:
        keep = np.flatnonzero(np.isin(records.patient, present))
        patient = np.searchsorted(present, records.patient[keep])
        names = tuple(records.names[one] for one in present)
        some = Records(records.modalities, records.label, patient, names, records.rows[keep])
        make_batch, steps = patient_batches(some, config, seed=0), count()
        target = config.task.target()

        def batch(drawn: np.ndarray) -> Batch:
            made = make_batch(next(steps), np.searchsorted(present, drawn))

            def losses(model: nn.Module, part: Part) -> torch.Tensor:
                return batch_losses(model, target, made[part].to(device()), config.training.precision)

            return losses, made.unit

        return batch

    return open_round
