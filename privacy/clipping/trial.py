"""Tries a model, its losses and an engine on made-up records, by the definition of a clipped step.

Each unit's loss and gradient are computed twice: by plain autograd on the unit's records alone, and by the engine in
batches of several units. They must be the same in every batch: whatever else is in it, of whatever size it is, and
whatever inputs, labels and weights `losses` makes of the rows it is given. What mixes two units of a batch, in the
model or outside it, shows, unless it does so too rarely for the few batches tried, or moves too little.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from privacy.clipping.engine import ClippingEngine, checked_losses
from privacy.clipping.probe import NEGLIGIBLE, gradients, repeatable, tolerance, watched
from privacy.clipping.units import Units
from privacy.clipping.validate import trainable
from privacy.errors import UnsupportedModel, UntrackedParameter

RowLosses = Callable[
    [torch.Tensor], torch.Tensor
]  # rows int64 [r] of a data set -> the losses [r] of these records
_ROUNDS = 4  # batches, each in an order and with weights of its own
_RESERVE = 0.05  # by which a norm, which is rounded up, may be above the true one
_SPREAD = 1e-6  # of the largest norm: below it a unit's own error is not looked at

_ONES = {"native_dropout", "bernoulli", "bernoulli_"}
_HALVES = {
    "rand",
    "rand_like",
    "uniform",
    "uniform_",
    "randn",
    "randn_like",
    "normal",
    "normal_",
    "exponential_",
}


def try_on(model: nn.Module, engine: ClippingEngine, losses: RowLosses, units: Units) -> None:
    """Compare the engine's batches with single units. Leaves random states as they were.

    Args:
        units: of all made-up records, at least 2.

    Raises:
        UnsupportedModel: a loss, a norm or a sum is not what it should be; the message says which.
    """
    device = next(iter(trainable(model).values())).device
    with repeatable(device) as restart, _Still(), watched(model) as low:

        def still(rows: torch.Tensor) -> torch.Tensor:
            restart()
            return losses(rows)

        _Trial(model, engine, still, units, low).run()


class _Trial:
    def __init__(
        self, model: nn.Module, engine: ClippingEngine, losses: RowLosses, units: Units, low: list[str]
    ) -> None:
        self._engine, self._losses, self._units, self._low = engine, losses, units, low
        self._parameters = trainable(model)
        self._rows = [torch.nonzero(units.index == unit).flatten() for unit in range(units.count)]
        self._generator = torch.Generator().manual_seed(0)

    def run(self) -> None:
        self._learn()
        batches = [self._batch(count) for count in self._counts()]
        weights = torch.stack([self._weights(batch) for batch in batches])
        lone, norms, sums = self._alone(weights)
        for batch, own, total in zip(batches, weights, sums, strict=True):
            self._compare(batch, own, lone, norms, total)

    def _learn(self) -> None:
        """Let the engine see batches of two sizes: one may by chance have as many records as a note has words."""
        for count in (self._units.count, max(1, self._units.count - 1)):
            batch = torch.arange(count)
            try:
                rows, units = self._open(batch)
                self._engine.clipped(lambda rows=rows: self._losses(rows), units, torch.ones_like)  # type: ignore[misc]
            except UntrackedParameter:
                continue  # asked again below, where it counts

    def _counts(self) -> list[int]:
        """Units of each batch: all, all in another order, about half, two."""
        count = self._units.count
        return [count, count, max(2, (count + 1) // 2), 2][:_ROUNDS]

    def _batch(self, count: int) -> torch.Tensor:
        return torch.randperm(self._units.count, generator=self._generator)[:count]

    def _weights(self, batch: torch.Tensor) -> torch.Tensor:
        """0 for about half the batch's units and all others, else between 1 and 2: float64 [P]."""
        weights = torch.zeros(self._units.count, dtype=torch.float64)
        kept = batch[: max(1, len(batch) // 2)]
        weights[kept] = 1 + torch.rand(len(kept), generator=self._generator, dtype=torch.float64)
        return weights

    def _open(self, batch: torch.Tensor) -> tuple[torch.Tensor, Units]:
        rows = torch.cat([self._rows[unit] for unit in batch.tolist()])
        index = torch.arange(len(batch)).repeat_interleave(self._units.sizes[batch])
        return rows, Units.of(index)

    def _alone(
        self, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, list[dict[str, torch.Tensor]]]:
        """By autograd, one unit at a time: losses [R], norms [P], and the sum of gradients for each row of weights."""
        lone = torch.zeros(self._units.records, dtype=torch.float64)
        norms = torch.zeros(self._units.count, dtype=torch.float64)
        sums = [
            {name: torch.zeros_like(p, dtype=torch.float64) for name, p in self._parameters.items()}
            for _ in weights
        ]
        for unit, rows in enumerate(self._rows):
            found = checked_losses(lambda rows=rows: self._losses(rows), len(rows))  # type: ignore[misc]
            lone[rows] = found.detach().double().cpu()
            own = gradients(found.mean(), self._parameters.values())
            norms[unit] = math.hypot(*(float(g.double().norm()) for g in own if g is not None))
            for total, weight in zip(sums, weights[:, unit].tolist(), strict=True):
                for name, gradient in zip(self._parameters, own, strict=True):
                    if weight and gradient is not None:
                        total[name] += weight * gradient
        return lone, norms, sums

    def _compare(
        self,
        batch: torch.Tensor,
        weights: torch.Tensor,
        lone: torch.Tensor,
        norms: torch.Tensor,
        total: dict[str, torch.Tensor],
    ) -> None:
        rows, units = self._open(batch)
        seen: list[torch.Tensor] = []

        def weighted() -> torch.Tensor:
            found = checked_losses(lambda: self._losses(rows), len(rows))
            seen.append(found.detach().double().cpu())
            return found * weights[batch][units.index].to(found)

        found = self._engine.clipped(weighted, units, torch.ones_like)
        allowed = tolerance(self._low, [seen[0], *self._parameters.values()])
        wanted = weights[batch] * norms[batch]
        usable = torch.isfinite(norms[batch] + found.norms.cpu())
        known = torch.isfinite(lone[rows])
        moved = (seen[0] - lone[rows]).abs() > allowed * (lone[rows].abs() + 1e-3)
        if bool((moved & known).any()):
            raise UnsupportedModel(
                "a record's loss is another one in a batch than alone: the model or record_losses mixes the records of "
                "a batch (BatchNorm, mixup, statistics or label counts of the batch, a loss over pairs), depends on "
                "its size, or is not deterministic for a given random state."
            )
        if not bool(usable.all()):
            return  # such a unit is left out of every sum
        slack = allowed * wanted + _SPREAD * wanted.max() + NEGLIGIBLE
        over = found.norms.cpu() - wanted  # a norm that is a little too large bounds a unit all the more
        differs = (over < -slack) | (over > slack + _RESERVE * wanted)
        if bool((differs & (wanted == 0)).any()):
            raise UnsupportedModel(
                "one unit's losses gave other records a gradient: records mix, or some layer does not have them as "
                "its first dimension (sequence-first inputs, records reordered or regrouped)."
            )
        error = math.hypot(
            *(float((found.sums[name].double() - value).norm()) for name, value in total.items())
        )
        if bool(differs.any()) or error > allowed * float(wanted.sum()) + NEGLIGIBLE:
            raise UnsupportedModel(
                "a unit's gradient in a batch differs from its gradient alone: the model mixes records or does "
                "something that the engine does not follow."
            )


class _Still(TorchDispatchMode):
    """While active, random layers do the same to every record: dropout keeps all, a random number is its middle.

    Permutations and whole numbers stay random: what they choose among are often the records.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        if name == "native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        places = [i for i, argument in enumerate(func._schema.arguments) if argument.name == "dropout_p"]
        if places and places[0] < len(args):
            args = (*args[: places[0]], 0.0, *args[places[0] + 1 :])
        elif places:
            kwargs["dropout_p"] = 0.0
        result = func(*args, **kwargs)
        if name in _ONES or name in _HALVES:
            result.fill_(1.0 if name in _ONES else 0.5)
        return result
