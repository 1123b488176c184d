"""One step of differentially private SGD: clip each unit's gradient, add noise, move the parameters.

Abadi et al. 2016, "Deep Learning with Differential Privacy", Algorithm 1, with the patient as the unit:

    g <- ( sum over units u of clip(g_u)  +  N(0, (noise_multiplier * max_grad_norm)^2) ) / expected_units

The sum's sensitivity to adding or removing one unit is `max_grad_norm`. The divisor is a public constant,
never the size of the batch. The noise comes from the private random domain (`privacy.noise`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, get_args

import torch
from opacus.optimizers import DPOptimizer
from torch import nn

from privacy.clipping.bookkeeping import BookkeepingEngine
from privacy.clipping.engine import ClippingEngine, EngineName, RecordLosses
from privacy.clipping.opacus import GhostEngine, HooksEngine
from privacy.clipping.precision import full_precision
from privacy.clipping.probe import probe
from privacy.clipping.rules import Clipping, Groups, clip_factors, group_factors
from privacy.clipping.trial import RowLosses, try_on
from privacy.clipping.units import Units
from privacy.clipping.use import wide
from privacy.clipping.validate import BufferGuard, trainable, validate_model, validate_optimizer
from privacy.errors import StepError
from privacy.noise import PrivateRandom, noise_std
from privacy.unseeded import unseeded

# The share of C by which rounding may let a unit move the sum further: a clipping factor by 1e-4, and a float32 sum
# over up to `_MANY` units by about 2^-24 sqrt(units) of itself. Noise makes up for it.
ROUNDING = 2.0**-11
_MANY = 256  # expected units above which parts of a batch are added in float64
_BOUNDS = (1e-10, 1e10)  # of the clipping norm: far from where squares in float32 vanish or overflow


def sensitivity(max_grad_norm: float) -> float:
    """The most by which a unit moves the clipped sum, rounding included: C (1 + `ROUNDING`)."""
    return max_grad_norm * (1.0 + ROUNDING)


_ENGINES: dict[str, Callable[[nn.Module], ClippingEngine]] = {
    "hooks": HooksEngine,
    "ghost": GhostEngine,
    "bookkeeping": BookkeepingEngine,
}


class PrivateOptimizer(DPOptimizer):
    """Opacus' optimiser contract (step hooks, schedulers) around sums that are already clipped.

    `summed_grad` of each parameter holds the clipped sum, in float32 at least whatever the parameter's type; `step()`
    adds the noise, divides and moves.

    Attributes:
        on_losses: takes the closure of `step(closure)`, which returns the losses [R] of a batch's records. Set by
            `privacy.engine.PrivacyEngine`, which knows the records' units.
    """

    on_losses: Callable[[RecordLosses], None] | None = None

    def step(self, closure: Callable[[], Any] | None = None) -> float | None:
        """Release what was accumulated; or clip a batch of which `closure` gives the record losses, and release it.

        Raises:
            StepError: nothing was accumulated, or a closure was given outside a `PrivacyEngine`'s training.
        """
        if closure is None:
            if any(parameter.summed_grad is None for parameter in self.params):
                raise StepError(
                    "Nothing was clipped. Call optimizer.step(closure), with the record losses' closure."
                )
            return super().step()
        if self.on_losses is None:
            raise StepError("step(closure) needs PrivacyEngine.make_private. Call the PrivateStep instead.")
        self.on_losses(closure)
        return None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear `grad`. The sums of a batch that comes in parts belong to the step."""
        self.original_optimizer.zero_grad(set_to_none)

    def clip_and_accumulate(self) -> None:
        """Nothing to do: the engine clipped."""

    @property
    def accumulated_iterations(self) -> int:
        return 1  # microbatches are one logical step

    def add_noise(self) -> None:
        """p.grad <- p.summed_grad + N(0, (noise_multiplier * max_grad_norm)^2), from the private domain.

        The deviation is a little larger than that, to make up for rounding: of the sum in float32 (`ROUNDING`), and to
        the noise's lattice.
        """
        dimension = sum(parameter.numel() for parameter in self.params)
        if self.noise_multiplier:
            std = noise_std(self.noise_multiplier, sensitivity(self.max_grad_norm), dimension)
            PrivateRandom().add_gaussian_([parameter.summed_grad for parameter in self.params], std)
        for parameter in self.params:
            parameter.grad = parameter.summed_grad.to(parameter.dtype)  # of what is released already
            parameter.summed_grad = None

    def pre_step(self, closure: Callable[[], float] | None = None) -> bool:
        self.add_noise()
        self.scale_grad()
        if self.step_hook:
            self.step_hook(self)
        return True


class PrivateStep:
    """Takes private steps of one model with one optimiser.

    The model stays as it is: same object, same `state_dict` names. A logical batch that does not fit in memory
    is given in parts: `accumulate` each part, then `finish`; the result is the same, and noise is added once.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        max_grad_norm: float,
        expected_units: float,
        clipping: Clipping = "flat",
        group_shares: Mapping[str, float] | None = None,
        engine: EngineName = "bookkeeping",
        allow_noiseless: bool = False,
        tried: bool = False,
    ) -> None:
        """
        Args:
            model: trained in place.
            optimizer: holds every trainable parameter of `model` and no other.
            noise_multiplier: noise standard deviation over `max_grad_norm`.
            max_grad_norm: C, the bound on one unit's gradient, 1e-10 to 1e10.
            expected_units: q N, the expected number of units of a batch, as a public constant.
            clipping: "flat", "automatic" or "per-group" (`privacy.clipping.rules`); all bound a unit by C.
            group_shares: for "per-group", each group's share of C^2 by the prefix of its parameters' names; an equal
                share for each child of the model if None (`privacy.clipping.rules.Groups`).
            engine: how gradients are clipped; all give the same result.
            allow_noiseless: permit `noise_multiplier=0`, which protects nobody. For tests and comparisons only.
            tried: another step of the same model, losses and engine was tried (`try_on`): this one checks no batch.

        Raises:
            StepError: a number is out of its range, or the optimiser does not hold the trainable parameters.
            UnsupportedModel: the model cannot be trained privately; the module or parameter is named.
        """
        _positive("max_grad_norm", max_grad_norm)
        if not _BOUNDS[0] <= max_grad_norm <= _BOUNDS[1]:
            raise StepError(
                f"max_grad_norm must be from {_BOUNDS[0]} to {_BOUNDS[1]}. Found {max_grad_norm!r}."
            )
        _positive("expected_units", expected_units)
        if not (allow_noiseless and noise_multiplier == 0):
            _positive("noise_multiplier", noise_multiplier)
        if clipping not in get_args(Clipping):
            raise StepError(f"clipping must be one of {', '.join(get_args(Clipping))}. Found {clipping!r}.")
        if group_shares is not None and clipping != "per-group":
            raise StepError(f"group_shares are for clipping='per-group'. Found {clipping!r}.")
        if engine not in _ENGINES:
            raise StepError(f"engine must be one of {', '.join(_ENGINES)}. Found {engine!r}.")
        validate_model(model)
        self._model = model
        self._parameters = trainable(model)
        validate_optimizer(optimizer, self._parameters)
        self._engine = _ENGINES[engine](model)
        self._clipping = clipping
        self._groups = Groups(self._parameters, group_shares) if clipping == "per-group" else None
        self.optimizer = PrivateOptimizer(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=expected_units,
        )
        self._probed, self._engine.strict = tried, not tried
        self._seen: set[int] = set()
        self._bound: float | None = None  # the clipping norm of the parts so far

    def __call__(self, record_losses: RecordLosses, units: torch.Tensor) -> None:
        """Take one step on one logical batch.

        Args:
            record_losses: runs the model on the batch's R records and returns their losses [R], without
                averaging over records. Not called when R = 0: an empty batch takes a step of noise alone.
                Called several times on the first batch, which `privacy.clipping.probe` checks.
            units: int64 [R], the unit (patient) of each record: any numbers, in any order.

        Raises:
            StepError, UnsupportedModel, NoiseError: nothing was moved or released.
        """
        self.accumulate(record_losses, units)
        self.finish()

    def try_on(self, losses: RowLosses, units: torch.Tensor) -> None:
        """Find out here, on made-up or public records, whatever a step could refuse. Later batches are not checked.

        A step that was never tried checks its first batch instead, and the error it then raises may reveal those
        records: so try it on before any private record is read. Nothing is moved, released or kept.

        Args:
            losses: from rows int64 [r] of a set of made-up records to their losses [r], as a batch of those records
                has them. Called many times, with different rows and numbers of rows.
            units: int64 [records], the unit of each made-up record, at least 2 units: like the run's in shape, in
                numbers of records a unit, and in what is missing.

        Raises:
            StepError: `units` or the losses have the wrong shape.
            UnsupportedModel: the model, the losses or the engine cannot be used; see `privacy.clipping.trial`.
        """
        made_up = Units.of(units.cpu())
        if made_up.count < 2:
            raise StepError(f"A step is tried on at least 2 made-up units. Found {made_up.count}.")
        self._engine.strict, guard, rows = True, BufferGuard(self._model), torch.arange(made_up.records)
        try:
            with full_precision():
                try_on(self._model, self._engine, losses, made_up)
                probe(
                    self._model, self._engine, lambda: losses(rows), made_up.records
                )  # with its random layers
            guard.check()
        finally:
            self.forget()
        self._probed, self._engine.strict = True, False

    def accumulate(self, record_losses: RecordLosses, units: torch.Tensor, copies: int = 0) -> None:
        """Clip and add one part of a logical batch. A unit's records must all be in one part.

        What is random in `record_losses` (dropout) is drawn from states that no seed reaches (`privacy.unseeded`).

        Args:
            record_losses: the losses [R + copies].
            units: int64 [R].
            copies: records at the end that are nobody's and add nothing. They fill all parts up to one shape, so that
                rounding does not depend on how many units there are (docs/dpsgd-engine.md).

        Raises:
            StepError: `units` or the losses have the wrong shape, or a unit was in an earlier part.
            UnsupportedModel: see the engine. Every part of this logical batch is then forgotten.
        """
        try:
            with full_precision(), unseeded():
                self._accumulate(record_losses, units, copies)
        except BaseException:
            self.forget()
            raise

    def finish(self) -> None:
        """Add noise to what was accumulated (to zero, for an empty batch), divide and move the parameters."""
        try:
            self._complete()
            self.optimizer.step()
        finally:
            self.forget()

    def finish_without_noise(self) -> dict[str, torch.Tensor]:
        """Move nothing; give away the clipped sum of what was accumulated (zeros, for an empty batch).

        **It is not private.** It is for whoever adds noise elsewhere, as `privacy.secure_sum` does: a unit moves it by
        up to `sensitivity(max_grad_norm)`.

        Returns:
            The sum for each trainable parameter, by name, in the parameter's shape, float32 or float64.
        """
        try:
            self._complete()
            return {name: one.summed_grad for name, one in self._parameters.items()}  # type: ignore[attr-defined]
        finally:
            self.forget()

    def _complete(self) -> None:
        if self._bound not in (None, self.optimizer.max_grad_norm):
            raise StepError("max_grad_norm changed after the batch was clipped. Change it between steps.")
        for parameter in self._parameters.values():
            if parameter.summed_grad is None:  # type: ignore[attr-defined]
                parameter.summed_grad = torch.zeros_like(wide(parameter.detach()))  # type: ignore[attr-defined]

    def _accumulate(self, record_losses: RecordLosses, ids: torch.Tensor, copies: int) -> None:
        if trainable(self._model).keys() != self._parameters.keys():
            raise StepError(
                "the trainable parameters changed since this step was made: make a new PrivateStep."
            )
        own = Units.of(ids)
        names = set(ids.unique().tolist())
        if names & self._seen:
            raise StepError(
                "a unit has records in two parts of one batch: it would be clipped twice. Put them in one part."
            )
        if own.records == 0:
            return
        units = own.and_others(copies)
        guard = BufferGuard(self._model)
        if not self._probed and units.records > 1:  # a single record mixes with nobody
            probe(self._model, self._engine, record_losses, units.records)
            self._probed = True
        if self._bound not in (None, self.optimizer.max_grad_norm):
            raise StepError("max_grad_norm changed between the parts of one batch. Change it between steps.")
        self._bound = self.optimizer.max_grad_norm

        def factors(norms: torch.Tensor) -> torch.Tensor:
            found = self._factors(norms)
            found[..., own.count :] = 0.0
            return found

        clipped = self._engine.clipped(record_losses, units, factors, self._groups)
        guard.check()
        self._seen |= names
        many = self.optimizer.expected_batch_size > _MANY
        for name, parameter in self._parameters.items():
            total = parameter.summed_grad  # type: ignore[attr-defined]
            part = clipped.sums[name].double() if many else clipped.sums[name]
            parameter.summed_grad = part if total is None else total.add_(part)  # type: ignore[attr-defined]

    def _factors(self, norms: torch.Tensor) -> torch.Tensor:
        bound = float(self.optimizer.max_grad_norm)
        if self._groups is not None:
            return group_factors(norms, bound, self._groups)
        return clip_factors(norms, bound, self._clipping)

    def forget(self) -> None:
        """Drop the parts of a batch that was not finished."""
        self._seen, self._bound = set(), None
        for parameter in self._parameters.values():
            parameter.summed_grad = None  # type: ignore[attr-defined]
            parameter.grad = None


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise StepError(f"{name} must be a finite number above 0. Found {value!r}.")
