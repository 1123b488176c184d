"""The least noise that keeps a target: solved by PLD, rounded up, and verified."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from privacy.accounting.claim import claimed_epsilon
from privacy.accounting.events import DpSgdEvent, SelectionEvent, merge
from privacy.accounting.pld import epsilon
from privacy.errors import AccountingError

RESOLUTION = 10_000  # noise multipliers are whole multiples of 1 / RESOLUTION
_MIN_TICKS, _MAX_TICKS = RESOLUTION // 16, 16_384 * RESOLUTION


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
    if not (math.isfinite(target_epsilon) and target_epsilon > 0):
        raise AccountingError(f"target_epsilon must be a finite number above 0. Found {target_epsilon!r}.")
    if steps < 1:
        raise AccountingError(f"steps must be 1 or more. Found {steps!r}.")
    before = merge(prior)

    def spent(ticks: int) -> float:
        return epsilon([*before, DpSgdEvent(ticks / RESOLUTION, sampling_rate, steps)], delta)

    if (used := epsilon(before, delta)) >= target_epsilon:
        raise AccountingError(f"Earlier releases already reach epsilon {used:.4f} of {target_epsilon}.")
    return _least(spent, target_epsilon) / RESOLUTION


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
    if not (math.isfinite(target_epsilon) and target_epsilon > 0):
        raise AccountingError(f"target_epsilon must be a finite number above 0. Found {target_epsilon!r}.")
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


def _trial(goal: float, delta: float, schedule: tuple[float, int], mean: float, shape: float) -> DpSgdEvent:
    one = DpSgdEvent(1.0, *schedule)

    def spent(ticks: int) -> float:
        trial = replace(one, noise_multiplier=ticks / RESOLUTION)
        return claimed_epsilon([SelectionEvent((trial,), mean, shape)], delta)

    return replace(one, noise_multiplier=_least(spent, goal) / RESOLUTION)


def _least(spent: Callable[[int], float], target: float) -> int:
    """The least whole number of ticks that `spent`, which falls with them, maps to `target` or less."""
    high = RESOLUTION
    low, at_low = 0, math.inf
    while (at_high := spent(high)) > target:
        low, at_low = high, at_high
        high *= 2
        if high > _MAX_TICKS:
            raise AccountingError(
                f"No noise multiplier up to {_MAX_TICKS / RESOLUTION:g} keeps epsilon {target} (it gives "
                f"{at_high:.4f}). Lower the sampling rate or the steps, or raise the target."
            )
    while low == 0 and high > _MIN_TICKS:
        if (value := spent(high // 2)) > target:
            low, at_low = high // 2, value
        else:
            high, at_high = high // 2, value
    attempt = 0
    while low and high - low > 1:
        attempt += 1
        middle = (low + high) // 2
        if attempt % 4 and at_low < math.inf and at_high > 0:  # epsilon may be infinite, or 0
            # Epsilon is nearly a power of sigma: interpolate, and halve now and then should that stall.
            slope = math.log(at_low / at_high) / math.log(high / low)
            middle = math.ceil(high * (at_high / target) ** (1 / slope))
        middle = min(max(middle, low + 1), high - 1)
        value = spent(middle)
        if value > target:
            low, at_low = middle, value
        else:
            high, at_high = middle, value
    return high
