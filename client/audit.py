"""What `mmmed privacy audit` examines: a run's own model, step, sampler and batches, on made-up records.

No patient is read and no budget is spent.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from client.mechanism import patient_batches, private_draws, private_step
from client.rounds import device
from mmmed.config import RunConfig
from mmmed.data.batch import part_slices
from mmmed.data.loader import Records
from mmmed.data.made_up import made_up_records
from mmmed.models import FrozenEncoders, build_model, load_tokenizer, trainable_state
from mmmed.training import batch_losses, make_optimizer
from mmmed.training.loop import MICROBATCH
from privacy.accounting import DpSgdEvent
from privacy.audit import Batch, Batches, PartLosses, Step, Subject
from privacy.dpsgd import PrivateStep

_PATIENTS = 48


class _InParts:
    """The private step, given a batch part by part as `mmmed.training.train` gives it."""

    def __init__(self, step: PrivateStep) -> None:
        self._step = step

        self.try_on = step.try_on

    def __call__(self, losses: PartLosses, units: torch.Tensor) -> None:
        for part in part_slices(units, MICROBATCH):
            self._step.accumulate(lambda part=part: losses(part), units[part])  # type: ignore[misc]
        self._step.finish()


@contextmanager
def run_subject(config: RunConfig, event: DpSgdEvent) -> Iterator[Subject]:
    """What a site runs under `config` with the mechanism `event`, on records that are made up.

    Raises:
        ModelError: the model cannot be built.
    """
    with tempfile.TemporaryDirectory(prefix="mmmed-audit-") as folder:
        tokenizer = load_tokenizer(config.model.text) if config.data.text else None
        records = made_up_records(config, tokenizer, _PATIENTS)
        built = build_model(config).to(device())
        if config.model.trainable in ("lora", "fusion-head"):  # as at a site, which keeps their features
            records = FrozenEncoders(built, config, Path(folder)).records(records)
        batches = patient_batches(records, config, seed=0)

        def losses(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
            batch = records.batch(rows.numpy(), np.arange(len(rows))).to(device())
            return batch_losses(model, batch, config.training.precision)

        def draw(drawn: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
            chosen, unit = batches.choose(0, drawn)
            return torch.from_numpy(chosen), torch.from_numpy(unit)

        def make_step(model: nn.Module, optimizer: torch.optim.Optimizer, noise_multiplier: float) -> Step:
            return _InParts(private_step(model, optimizer, config, noise_multiplier))

        yield Subject(
            make_model=lambda: copy.deepcopy(built).train(),
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
            folders=(Path(folder),),
        )


def _rounds(records: Records, config: RunConfig) -> Callable[[np.ndarray], Batches]:
    """The first round of a site that has only some of the patients, made as `client.rounds` makes it."""

    def open_round(present: np.ndarray) -> Batches:
        keep = np.flatnonzero(np.isin(records.patient, present))
        patient = np.searchsorted(present, records.patient[keep])
        some = Records(records.modalities, records.label, patient, len(present), records.rows[keep])
        make_batch = patient_batches(some, config, seed=0)

        def batch(drawn: np.ndarray) -> Batch:
            made = make_batch(np.searchsorted(present, drawn))

            def losses(model: nn.Module, part: slice) -> torch.Tensor:
                return batch_losses(model, made[part].to(device()), config.training.precision)

            return losses, made.unit

        return batch

    return open_round
