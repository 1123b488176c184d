"""The contract of a clipping engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from privacy.clipping.rules import Groups
from privacy.clipping.units import Units
from privacy.errors import StepError

EngineName = Literal["hooks", "ghost", "bookkeeping"]
RecordLosses = Callable[[], torch.Tensor]
Factors = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Clipped:
    """What one forward and backward pass over some units gives.

    Attributes:
        sums: for every trainable parameter, by name: sum over units of factor_u * g_u, in float32 at least whatever the
            parameter's dtype: rounding it further would move it by more than the clipping norm.
        norms: float64 [P], ||g_u|| over all parameters before clipping. Private: never leaves the site.
    """

    sums: Mapping[str, torch.Tensor]
    norms: torch.Tensor


class ClippingEngine(Protocol):
    """Computes per-unit gradient norms and the sum of the scaled per-unit gradients. Moves no parameter.

    Attributes:
        strict: whether a use of a parameter that cannot be followed is refused. It is not after a trial, when a refusal
            would reveal records: that use is then left out of norms and sums alike.
    """

    strict: bool

    def clipped(
        self, record_losses: RecordLosses, units: Units, factors: Factors, groups: Groups | None = None
    ) -> Clipped:
        """Run the forward pass and clip.

        Args:
            record_losses: runs the model on the batch's R records and returns their losses [R].
            units: the unit of each record; a unit's gradient is that of the mean of its records' losses.
            factors: from the norms [P] to the factors [P] (`privacy.clipping.rules.clip_factors`); with groups,
                from the groups' norms [G, P] to their factors [G, P] (`group_factors`).
            groups: parts of the model that are clipped apart.

        Raises:
            StepError: the engine cannot clip groups or units of several records, or `record_losses` does not return R
                differentiable losses.
            UnsupportedModel: the per-unit gradients of this model are not known. No gradient is left behind.
        """
        ...


def checked_losses(record_losses: RecordLosses, records: int) -> torch.Tensor:
    """The losses [R] of the batch's records.

    Raises:
        StepError: not a differentiable vector of R losses.
    """
    losses = record_losses()
    if losses.shape != (records,):
        raise StepError(
            f"record_losses must return one loss a record, shape ({records},). Found {tuple(losses.shape)}. "
            "Use a loss with reduction='none' and average over everything but the records."
        )
    if not losses.requires_grad:
        raise StepError("record_losses returned losses that depend on no trainable parameter.")
    return losses


def weighted_losses(record_losses: RecordLosses, units: Units) -> torch.Tensor:
    """The losses [R], weighted so that a unit's losses sum to their mean. Raises as `checked_losses`."""
    losses = checked_losses(record_losses, units.records)
    return losses * units.weights(losses)
