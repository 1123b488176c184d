"""Epsilon and delta by privacy loss distributions (PLD), the accountant whose numbers are reported.

dp-accounting discretises the privacy loss of one step pessimistically ("connect the dots", Doroshenko et al.
2022, arXiv 2207.04380) and composes by FFT (Koskela et al. 2020, arXiv 1906.03049), so every number here is an
upper bound. The interval is chosen from the events, small beside the spread of one step's privacy loss:
a finer one only brings the bound closer.

Mechanisms are composed as the leaves of a binary tree whose nodes are cached: a run that grows by a round, of a new
mechanism or of any earlier one, pays for the nodes above that leaf alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING

from privacy.accounting.events import DpSgdEvent, merge
from privacy.accounting.step import gaussian_step
from privacy.errors import AccountingError

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

MIN_DELTA = 1e-10  # below, rounding in the FFT could outweigh delta
_FFT_SLACK, _FFT_SLACK_A_STEP = (
    1e-12,
    1e-15,
)  # held back from delta for that rounding, which grows with the power
_INTERVALS = (1e-3, 5e-4, 2e-4, 1e-4, 5e-5, 2e-5, 1e-5, 5e-6, 2e-6, 1e-6)
_MAX_POINTS = 100_000  # of one step's distribution
_MAX_COMPOSED = (
    1_000_000  # of all steps' together: what composing and solving may take is bounded, a second or so
)
_COARSEST = (
    20.0  # interval; where more would be needed, losses are in the millions and epsilon is called infinite
)
_ROUGHER = 4
_SMALLER, _TRIES = 0.8, 8  # deltas that are tried where epsilon overflows


class Adjacency(Enum):
    """Which two data sets count as neighbours."""

    ADD_REMOVE = "add_remove"
    REPLACE_ONE = "replace_one"


def epsilon(
    events: Iterable[DpSgdEvent],
    delta: float,
    *,
    adjacency: Adjacency = Adjacency.ADD_REMOVE,
    group_size: int = 1,
) -> float:
    """The epsilon of all events together at `delta`: an upper bound, infinite if there is none.

    Args:
        events: what was, or will be, released.
        delta: in [1e-10, 1).
        adjacency: neighbouring relation.
        group_size: number k of units (linked patients) protected together, under add/remove of all k.

    Raises:
        AccountingError: a value is out of range or the combination is not supported.
    """
    if not MIN_DELTA <= delta < 1:
        raise AccountingError(f"delta must be in [{MIN_DELTA}, 1). Found {delta!r}.")
    segments = merge(events)
    return _solved(segments, delta, adjacency, group_size) if segments else 0.0


@lru_cache(maxsize=4096)
def _solved(segments: tuple[DpSgdEvent, ...], delta: float, adjacency: Adjacency, group_size: int) -> float:
    """`epsilon`, which the sites of a simulation and the report ask of the same events again and again."""
    composed = compose(segments, interval(segments), adjacency, group_size)
    return _epsilon(composed, segments, delta)


def rough_epsilon(events: Iterable[DpSgdEvent], delta: float) -> float:
    """A quick, looser upper bound on epsilon at `delta`, by a wider discretisation interval; for searches."""
    segments = merge(events)
    if not segments:
        return 0.0
    return _epsilon(compose(segments, _ROUGHER * interval(segments)), segments, delta)


def delta(
    events: Iterable[DpSgdEvent],
    epsilon: float,
    *,
    adjacency: Adjacency = Adjacency.ADD_REMOVE,
    group_size: int = 1,
) -> float:
    """The delta of all events together at `epsilon`: an upper bound, 1 if there is no better one.

    Args:
        events: what was, or will be, released.
        epsilon: a finite number, 0 or more.
        adjacency: neighbouring relation.
        group_size: number k of units (linked patients) protected together, under add/remove of all k.

    Raises:
        AccountingError: a value is out of range or the combination is not supported.
    """
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise AccountingError(f"epsilon must be a finite number, 0 or more. Found {epsilon!r}.")
    segments = merge(events)
    if not segments:
        return 0.0
    distribution = compose(segments, interval(segments), adjacency, group_size)
    if distribution is None:
        return 1.0
    return min(1.0, float(distribution.get_delta_for_epsilon(epsilon)) + slack(segments))


def discretisation_error(events: Iterable[DpSgdEvent], delta: float) -> float:
    """How much of `epsilon` is discretisation, estimated from above.

    The difference between the bounds at twice the interval and at the interval. Discretisation errors fall at
    least linearly with the interval, so what is left is no larger.
    """
    segments = merge(events)
    if not segments:
        return 0.0
    width = interval(segments)
    coarse, fine = (_epsilon(compose(segments, each), segments, delta) for each in (2 * width, width))
    return max(0.0, coarse - fine) if coarse < math.inf else math.inf


def interval(events: tuple[DpSgdEvent, ...]) -> float:
    """The discretisation interval for these events: a tenth of the typical spread of one step's loss."""
    steps = sum(event.steps for event in events)
    variance = sum(event.steps * _loss_variance(event) for event in events) / steps
    wanted = 0.1 * math.sqrt(variance)
    affordable = max(
        max(_loss_range(event) for event in events) / _MAX_POINTS,
        sum(_loss_sum(event) for event in events) / _MAX_COMPOSED,
    )
    fitting = [width for width in _INTERVALS if affordable <= width <= wanted]
    coarser = [width for width in _INTERVALS if width >= affordable]
    if fitting:
        return fitting[0]
    return coarser[-1] if coarser else affordable


def compose(
    segments: tuple[DpSgdEvent, ...],
    width: float,
    adjacency: Adjacency = Adjacency.ADD_REMOVE,
    group_size: int = 1,
) -> PrivacyLossDistribution | None:
    """The privacy loss distribution of a composition, discretised.

    Args:
        segments: merged events (`merge`), at least one.
        width: discretisation interval of the privacy loss (`interval`).
        adjacency: neighbouring relation.
        group_size: number of units protected together, under add/remove.

    Returns:
        The distribution; None if `width` is so coarse that its losses would bound nothing.

    Raises:
        AccountingError: `group_size` is below 1, or above 1 under another relation than add/remove.
    """
    if isinstance(group_size, bool) or not isinstance(group_size, int) or group_size < 1:
        raise AccountingError(f"group_size must be a whole number, 1 or more. Found {group_size!r}.")
    if group_size > 1 and adjacency is not Adjacency.ADD_REMOVE:
        raise AccountingError("Group privacy is accounted under add/remove only.")
    if width > _COARSEST:
        return None
    return _compose(segments, width, adjacency, group_size)


@lru_cache(maxsize=256)
def _compose(
    segments: tuple[DpSgdEvent, ...], width: float, adjacency: Adjacency, group_size: int
) -> PrivacyLossDistribution:
    if len(segments) == 1:
        (event,) = segments
        step = _step(event.noise_multiplier, event.sampling_rate, width, adjacency, group_size)
        return step.self_compose(event.steps)
    half = 1 << (
        (len(segments) - 1).bit_length() - 1
    )  # a power of two: appending leaves the left half as it was
    left, right = (
        _compose(part, width, adjacency, group_size) for part in (segments[:half], segments[half:])
    )
    return left.compose(right)


@lru_cache(maxsize=64)
def _step(
    sigma: float, rate: float, width: float, adjacency: Adjacency, group_size: int
) -> PrivacyLossDistribution:
    from dp_accounting import privacy_accountant
    from dp_accounting.pld import privacy_loss_distribution

    if group_size > 1 and rate == 1.0:
        return _step(sigma / group_size, 1.0, width, adjacency, 1)
    if group_size > 1:
        # Each of the k units is in the sample independently, so a neighbouring sum moves by up to
        # Binomial(k, q) sensitivities (Choquette-Choo et al. 2024, arXiv 2310.15526, mixture of Gaussians).
        counts = range(group_size + 1)
        weights = [math.comb(group_size, i) * rate**i * (1 - rate) ** (group_size - i) for i in counts]
        return privacy_loss_distribution.from_mixture_gaussian_mechanism(
            sigma, [float(i) for i in counts], weights, value_discretization_interval=width
        )
    if adjacency is Adjacency.ADD_REMOVE:
        return gaussian_step(sigma, rate, width)
    return privacy_loss_distribution.from_gaussian_mechanism(
        sigma,
        value_discretization_interval=width,
        sampling_prob=rate,
        neighboring_relation=privacy_accountant.NeighboringRelation.REPLACE_ONE,
    )


def clear_caches() -> None:
    """Empty the caches of epsilons and of composed distributions, so that the cost of a composition can be measured."""
    _solved.cache_clear()
    _compose.cache_clear()
    _step.cache_clear()


def slack(segments: tuple[DpSgdEvent, ...]) -> float:
    """An upper bound on the FFT's rounding error in a delta of all segments together."""
    return _FFT_SLACK + _FFT_SLACK_A_STEP * sum(event.steps for event in segments)


def _epsilon(
    distribution: PrivacyLossDistribution | None, segments: tuple[DpSgdEvent, ...], delta: float
) -> float:
    left = delta - slack(segments)
    if distribution is None or left <= 0:
        return math.inf
    # dp-accounting divides by what underflows at some deltas where epsilon is about 700, and calls it infinite. Epsilon
    # falls as delta grows, so that of a smaller delta is an upper bound as well.
    for smaller in range(_TRIES):
        found = float(distribution.get_epsilon_for_delta(left * _SMALLER**smaller))
        if found < math.inf:
            return found
    return math.inf


def _loss_variance(event: DpSgdEvent) -> float:
    # q^2 (exp(1/sigma^2) - 1), the chi-square divergence of a step: its loss variance when small.
    return event.sampling_rate**2 * math.expm1(min(1 / event.noise_multiplier**2, 100.0))


def _loss_sum(event: DpSgdEvent) -> float:
    # A bound on the mean of all steps' loss together: divergences are convex, so q times the whole Gaussian's.
    return event.steps * event.sampling_rate / (2 * event.noise_multiplier**2)


def _loss_range(event: DpSgdEvent) -> float:
    # The loss at 10 standard deviations of noise, log(1 + q (exp(1/(2 sigma^2) + 10/sigma) - 1)).
    exponent = 0.5 / event.noise_multiplier**2 + 10 / event.noise_multiplier
    if exponent > 700:
        return exponent
    return math.log1p(event.sampling_rate * math.expm1(exponent))
