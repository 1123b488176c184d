"""What `mmmed privacy audit` examines: a run's own model, step, sampler and batches, on made-up records.

No patient is read and no budget is spent.
"""

from __future__ import annotations

import copy
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
from privacy.audit import Batch, Batches, Part, PartLosses, Step, Subject
from privacy.dpsgd import PrivateStep


class _InParts:
    """The private step, given a batch part by part as `mmmed.training.train` gives it."""

    def __init__(self, step: PrivateStep, together: int) -> None:
        self._step, self._together = step, together

    def __call__(self, losses: PartLosses, units: torch.Tensor) -> None:
        for rows, unit in parts(units, self._together, filled=True):
            self._step.accumulate(partial(losses, rows), unit, len(rows) - len(unit))
        self._step.finish()


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
    )


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
