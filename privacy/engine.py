"""The entrance for those who know Opacus: model, optimiser and loader in, private ones out, epsilon at any time.

    engine = PrivacyEngine()
    model, optimizer, loader = engine.make_private(
        module=model, optimizer=optimizer, data_loader=loader, noise_multiplier=1.1, max_grad_norm=1.0
    )
    for x, y in loader:
        optimizer.step(lambda: F.cross_entropy(model(x), y, reduction="none"))
    engine.get_epsilon(delta=1e-5)

It assembles `privacy.dpsgd.PrivateStep`, a sampler and the accounting, and adds no mechanism of its own. Instead of
`loss.backward()`, the optimiser gets the closure of torch's own contract, which returns one loss a record: it can
then check the model on the first batch, leave out an empty batch, and weigh a patient's records.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from privacy.accounting import (
    AccountingReport,
    DpSgdEvent,
    account,
    calibrate_noise_multiplier,
    epsilon,
    merge,
)
from privacy.batches import UnitLoader
from privacy.clipping.engine import EngineName, RecordLosses
from privacy.clipping.rules import Clipping
from privacy.dpsgd import PrivateOptimizer, PrivateStep
from privacy.errors import SamplingError, StepError
from privacy.noise import PrivateRandom
from privacy.sampling import PartitionSampler, PoissonSampler

Sampling = Literal["poisson", "shuffle"]


class PrivacyEngine:
    """Makes training private and keeps account of every step, over any number of models trained on the same units."""

    def __init__(self) -> None:
        self._events: tuple[DpSgdEvent, ...] = ()

    @property
    def events(self) -> tuple[DpSgdEvent, ...]:
        """What was charged so far, each mechanism once."""
        return self._events

    def get_epsilon(self, delta: float) -> float:
        """Epsilon of all steps so far at `delta`, add/remove of one unit, by PLD: an upper bound."""
        return epsilon(self._events, delta)

    def report(self, delta: float) -> AccountingReport:
        """Every number about the steps so far, cross-checked (`privacy.accounting.account`)."""
        return account(self._events, delta)

    def state_dict(self) -> dict[str, Any]:
        """The account, as JSON values, to be saved with the model's and the optimiser's states."""
        return {"events": [event.to_json() for event in self._events]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue an account. Raises AccountingError if `state` is not one."""
        self._events = merge(DpSgdEvent.from_json(event) for event in state["events"])

    def make_private(
        self,
        *,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        data_loader: DataLoader[Any],
        noise_multiplier: float,
        max_grad_norm: float,
        units: Sequence[Hashable] | None = None,
        records_per_unit: int | None = None,
        max_physical_batch_size: int | None = None,
        clipping: Clipping = "flat",
        group_shares: Mapping[str, float] | None = None,
        engine: EngineName = "bookkeeping",
        sampling: Sampling = "poisson",
    ) -> tuple[nn.Module, PrivateOptimizer, UnitLoader]:
        """
        Args:
            module, optimizer, clipping, group_shares, engine, noise_multiplier, max_grad_norm: as for `PrivateStep`.
            data_loader: its `batch_size` is the expected number of units of a batch, B; its sampler is not used.
            units: the unit (patient) of each record of the data set; None if each record is its own.
            records_per_unit: the most records of a unit in a step; None for all.
            max_physical_batch_size: records that are computed at once. A larger batch comes in several parts, with a
                call of `optimizer.step` for each; the model moves, and noise is added, with the last one alone.
            sampling: "poisson", every unit in each batch with probability q = B / N, independently; or "shuffle",
                every unit once a pass, charged without amplification: a pass costs one full Gaussian mechanism.

        Returns:
            The same module; the optimiser, whose `step(closure)` takes a closure that returns the losses [R] of the
            batch's records; the loader of private batches.

        N is taken as public, as Opacus does. Where it may not be known, use `PrivateStep` with a public rate.

        Raises:
            StepError, UnsupportedModel: as `PrivateStep`.
            SamplingError: the loader or the units do not make a sampler that can be accounted for.
        """
        codes, batch = _codes(data_loader, units), _batch_size(data_loader)
        n_units = int(codes.max()) + 1
        rate, steps = _schedule(n_units, batch)
        draws: PoissonSampler | PartitionSampler
        if sampling == "poisson":
            draws = PoissonSampler(n_units, rate, steps, PrivateRandom())
        elif sampling == "shuffle":
            draws = PartitionSampler(n_units, steps, PrivateRandom())
        else:
            raise SamplingError(
                f"sampling must be 'poisson' or 'shuffle'. Found {sampling!r}. (Balls-in-bins has no accountant "
                "in dp-accounting yet; 'shuffle' samples so, and is charged without amplification.)"
            )
        for name, limit in (
            ("records_per_unit", records_per_unit),
            ("max_physical_batch_size", max_physical_batch_size),
        ):
            if limit is not None and limit < 1:
                raise SamplingError(f"{name} must be 1 or more. Found {limit!r}.")
        step = PrivateStep(
            module,
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_units=batch,
            clipping=clipping,
            group_shares=group_shares,
            engine=engine,
        )
        loader = UnitLoader(
            data_loader, codes, draws, records_per_unit=records_per_unit, max_records=max_physical_batch_size
        )
        step.optimizer.on_losses = _Steps(self, step, loader, rate if sampling == "poisson" else None)
        return module, step.optimizer, loader

    def make_private_with_epsilon(
        self, *, target_epsilon: float, target_delta: float, epochs: int, **options: Any
    ) -> tuple[nn.Module, PrivateOptimizer, UnitLoader]:
        """`make_private` with the least noise that keeps the target after `epochs` passes, earlier steps included.

        Args:
            target_epsilon: epsilon of all steps together, those already charged included; add/remove of one unit.
            target_delta: the delta at which that epsilon holds.
            epochs: passes over the units.
            options: what `make_private` takes, without `noise_multiplier`.

        Returns:
            What `make_private` returns.

        Raises:
            AccountingError: no noise keeps the target.
            StepError, UnsupportedModel, SamplingError: as `make_private`.
        """
        loader = options["data_loader"]
        n_units = int(_codes(loader, options.get("units")).max()) + 1
        rate, steps = _schedule(n_units, _batch_size(loader))
        if options.get("sampling", "poisson") != "poisson":
            rate, steps = 1.0, 1
        noise = calibrate_noise_multiplier(target_epsilon, target_delta, rate, steps * epochs, self._events)
        return self.make_private(noise_multiplier=noise, **options)

    def charge(self, event: DpSgdEvent) -> None:
        """Add to the account."""
        self._events = merge([*self._events, event])


class _Steps:
    """Takes the steps of one optimiser: charges each before anything is computed."""

    def __init__(
        self, engine: PrivacyEngine, step: PrivateStep, loader: UnitLoader, rate: float | None
    ) -> None:
        """
        Args:
            rate: of Poisson sampling; None if a whole pass is one mechanism at full rate.
        """
        self._engine, self._step, self._loader, self._rate = engine, step, loader, rate
        self._charged = math.inf  # the noise multiplier that the current mechanism was charged with

    def __call__(self, record_losses: RecordLosses) -> None:
        part = self._loader.take()
        noise = float(self._step.optimizer.noise_multiplier)
        if part.first:
            self._step.forget()  # a batch that was left half-way
        if part.opens_pass or (part.first and self._rate is not None):
            self._engine.charge(DpSgdEvent(noise, self._rate or 1.0, 1))
            self._charged = noise
        if noise < self._charged:
            raise StepError(
                f"noise_multiplier fell from {self._charged} to {noise} after it was charged. Change it between "
                "batches (with sampling='shuffle', between passes)."
            )
        self._step.accumulate(record_losses, part.units)
        if part.last:
            self._step.finish()


def _codes(loader: DataLoader[Any], units: Sequence[Hashable] | None) -> np.ndarray:
    """The unit of each record, int64 [records], 0 .. N - 1."""
    try:
        records = len(loader.dataset)  # type: ignore[arg-type]
    except TypeError as error:
        raise SamplingError("The data set has no length, so units cannot be sampled from it.") from error
    if records == 0:
        raise SamplingError("The data set is empty.")
    if units is None:
        return np.arange(records)
    if len(units) != records:
        raise SamplingError(f"units must name the unit of each of {records} records. Found {len(units)}.")
    numbers: dict[Hashable, int] = {}
    values = units.tolist() if isinstance(units, np.ndarray | torch.Tensor) else units
    return np.array([numbers.setdefault(unit, len(numbers)) for unit in values], dtype=np.int64)


def _batch_size(loader: DataLoader[Any]) -> int:
    if loader.batch_size is None:
        raise SamplingError(
            "The data loader must have a batch_size: the expected number of units of a batch."
        )
    return loader.batch_size


def _schedule(n_units: int, batch: int) -> tuple[float, int]:
    """The exact sampling rate, and the steps of one pass."""
    if batch > n_units:
        raise SamplingError(f"batch_size is {batch}, but there are {n_units} units: at most that many.")
    return batch / n_units, math.ceil(n_units / batch)
