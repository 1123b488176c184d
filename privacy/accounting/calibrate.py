"""The least noise that keeps a target: solved by PLD, rounded up, and verified."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import count

from privacy.accounting.claim import claimed_epsilon, shown
from privacy.accounting.events import DpSgdEvent, SelectionEvent, merge
from privacy.accounting.pld import epsilon, rough_epsilon
from privacy.errors import AccountingError

RESOLUTION = 10_000  # noise multipliers are whole multiples of 1 / RESOLUTION
_MIN_TICKS, _MAX_TICKS = RESOLUTION // 16, 16_384 * RESOLUTION
_SLOPE = 1.5  # of a first guess: epsilon is about sigma to the power of minus this


def calibrate_noise_multiplier(
    target_epsilon: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    prior: Iterable[DpSgdEvent] = (),
) -> float:
    """The least noise multiplier, on a grid of 1e-4 from 0.0625 up, with which `steps` more steps keep the target.

    Args:
        target_epsilon: above 0, for `prior` and the new steps together.
        delta: in [1e-10, 1).
        sampling_rate: q in (0, 1].
        steps: number of new steps, 1 or more.
        prior: what the same units have already been charged.

    Returns:
        sigma, such that epsilon([*prior, DpSgdEvent(sigma, sampling_rate, steps)], delta) <= target_epsilon.

    Raises:
        AccountingError: a value is out of range, or no noise multiplier up to 16,384 keeps the target.
    """
    _check_target(target_epsilon)
    _check_steps(steps)
    return _calibrate(target_epsilon, delta, sampling_rate, steps, merge(prior))


def near_noise_multiplier(target_epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """A noise multiplier that keeps the target, and spends 98 % of it or more: to compare many mechanisms by.

    It is found by a quick upper bound on epsilon alone; what it costs is `epsilon`. Raises as
    `calibrate_noise_multiplier`, of whose arguments it takes the first four.
    """
    _check_target(target_epsilon)
    _check_steps(steps)
    aim, near = 0.99 * target_epsilon, 0.01 - 1e-9

    def rough(ticks: int) -> float:
        return rough_epsilon([DpSgdEvent(ticks / RESOLUTION, sampling_rate, steps)], delta)

    ticks, _ = _search(rough, aim, _start(aim, delta, sampling_rate, steps), _SLOPE, near)
    return ticks / RESOLUTION


@lru_cache(maxsize=1024)
def _calibrate(target: float, delta: float, rate: float, steps: int, before: tuple[DpSgdEvent, ...]) -> float:
    if (used := epsilon(before, delta)) >= target:
        raise AccountingError(f"Earlier releases already reach epsilon {shown(used)} of {target}.")

    def events(ticks: int) -> list[DpSgdEvent]:
        return [*before, DpSgdEvent(ticks / RESOLUTION, rate, steps)]

    def spent(ticks: int) -> float:
        return epsilon(events(ticks), delta)

    if not before:
        return _least(spent, target, start=_start(target, delta, rate, steps)) / RESOLUTION
    return _least(spent, target, rough=lambda ticks: rough_epsilon(events(ticks), delta)) / RESOLUTION


def _start(target: float, delta: float, rate: float, steps: int) -> int:
    """Ticks to look at first: by the central limit (Bu et al. 2020, arXiv 1911.11607), which bounds nothing."""
    if not 0 < delta < 1:
        return RESOLUTION
    low, high = 1e-6, 1e6  # mu of the Gaussian mechanism that has this epsilon at delta
    while high > 1.001 * low:
        mu = math.sqrt(low * high)
        far, near = _normal(-target / mu - mu / 2), _normal(mu / 2 - target / mu)
        spent = near - math.exp(target + math.log(far)) if far > 0 else near
        low, high = (mu, high) if spent < delta else (low, mu)
    noise = 1 / math.sqrt(math.log1p((low / rate) ** 2 / steps) if rate < 1 else low**2 / steps)
    return min(max(math.ceil(noise * RESOLUTION), _MIN_TICKS), _MAX_TICKS)


def _normal(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


def calibrate_selection(
    target_epsilon: float, delta: float, schedules: Sequence[tuple[float, int]], mean: float, shape: float
) -> SelectionEvent:
    """The best of a random number of trials, each with the least noise with which the whole keeps the target.

    Args:
        target_epsilon: above 0, for the whole selection.
        delta: in [1e-10, 1).
        schedules: sampling rate and steps of each mechanism that a trial may draw.
        mean, shape: of the number of trials; see `SelectionEvent`.

    Returns:
        An event with one mechanism for each schedule, in order.

    Raises:
        AccountingError: a value is out of range, or no noise multiplier up to 16,384 keeps the target.
    """
    _check_target(target_epsilon)
    goal = target_epsilon
    while True:
        solved = {
            schedule: _trial(goal, delta, schedule, mean, shape) for schedule in dict.fromkeys(schedules)
        }
        event = SelectionEvent(tuple(solved[schedule] for schedule in schedules), mean, shape)
        # Mechanisms that reach the goal at different orders cost a little more together.
        if (spent := claimed_epsilon([event], delta)) <= target_epsilon:
            return event
        goal *= min(target_epsilon / spent, 0.999)


def _check_target(target_epsilon: float) -> None:
    if not (math.isfinite(target_epsilon) and target_epsilon > 0):
        raise AccountingError(f"target_epsilon must be a finite number above 0. Found {target_epsilon!r}.")


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise AccountingError(f"steps must be 1 or more. Found {steps!r}.")


def _trial(goal: float, delta: float, schedule: tuple[float, int], mean: float, shape: float) -> DpSgdEvent:
    one = DpSgdEvent(1.0, *schedule)

    def spent(ticks: int) -> float:
        trial = replace(one, noise_multiplier=ticks / RESOLUTION)
        return claimed_epsilon([SelectionEvent((trial,), mean, shape)], delta)

    return replace(one, noise_multiplier=_least(spent, goal) / RESOLUTION)


def _least(
    spent: Callable[[int], float],
    target: float,
    rough: Callable[[int], float] | None = None,
    start: int = RESOLUTION,
) -> int:
    """The least whole number of ticks that `spent`, which falls with them, maps to `target` or less.

    `rough`, a cheaper function that is nearly as large, finds where to look, from `start` on.
    """
    ticks, slope = start, _SLOPE
    if rough is not None:
        ticks, slope = _search(rough, target, ticks, slope, near=2e-3)
    return _search(spent, target, ticks, slope)[0]


def _search(
    spent: Callable[[int], float], target: float, ticks: int, slope: float, near: float = 0.0
) -> tuple[int, float]:
    """`_least`, or the first ticks that come so near to the target; and the slope there.

    Epsilon is nearly sigma to the power of -slope: this interpolates, and halves what is left every fourth time, so
    that the range of ticks bounds how long it takes.
    """
    low, high, last, at_last = 0, 0, 0, math.inf  # 0: not known
    for attempt in count(1):
        value = spent(ticks)
        low, high = (ticks, high) if value > target else (low, ticks)
        if near and abs(value - target) <= near * target:
            return ticks, slope
        if high == _MIN_TICKS or (low and high - low == 1):
            return high, slope
        if low == _MAX_TICKS:
            raise AccountingError(
                f"No noise multiplier up to {_MAX_TICKS / RESOLUTION:g} keeps epsilon {target} (it gives "
                f"{shown(value)}). Lower the sampling rate or the steps, or raise the target."
            )
        usable = 0 < value < math.inf
        if usable and last and 0 < at_last < math.inf:
            slope = min(max(math.log(at_last / value) / math.log(ticks / last), 0.5), 10.0)
        last, at_last = ticks, value
        if attempt % 4 and usable:
            ticks = math.ceil(ticks * min(max((value / target) ** (1 / slope), 0.25), 4.0))
        else:
            ticks = math.isqrt((low or high // 2) * (high or 2 * low))
        ticks = min(max(ticks, low + 1, _MIN_TICKS), high - 1 if high else _MAX_TICKS)
    raise AssertionError("count() does not end")
