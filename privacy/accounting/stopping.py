"""How many trials a selection runs: the truncated negative binomial distribution (arXiv 2110.03620, Definition 1).

    shape 0, logarithmic:  P(k) = (1 - gamma)^k / (k ln(1/gamma)),     mean (1/gamma - 1) / ln(1/gamma)
    shape s > 0:           P(k) = (1 - gamma)^k / (gamma^-s - 1) prod_{l < k} (l + s) / (l + 1),
                           mean s (1 - gamma) / (gamma (1 - gamma^s));  s = 1 is the geometric distribution

for k = 1, 2, ... The number must be drawn before the trials, whatever the data, and never be told.
"""

from __future__ import annotations

import math
import secrets

from privacy.errors import AccountingError

LOGARITHMIC, GEOMETRIC = 0.0, 1.0  # shapes
_LEAST_GAMMA = 1e-9
_BITS = 128


def negative_log_success(mean: float, shape: float) -> float:
    """ln(1 / gamma) of the distribution with this mean, rounded up.

    Raises:
        AccountingError: no gamma above 1e-9 gives the mean.
    """
    low, high = 0.0, -math.log(_LEAST_GAMMA)
    if _mean(high, shape) < mean:
        raise AccountingError(f"A mean of {mean:g} trials is too many at shape {shape:g}.")
    while high - low > 1e-14 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if _mean(middle, shape) < mean else (low, middle)
    return high if mean > 1 else 0.0


def draw_number_of_trials(mean: float, shape: float) -> int:
    """One draw, from the operating system's generator, by inversion."""
    uniform = (secrets.randbits(_BITS) + 0.5) / 2**_BITS
    return number_at(uniform, mean, shape)


def number_at(uniform: float, mean: float, shape: float) -> int:
    """The least k with P(number <= k) >= `uniform`, which is in (0, 1)."""
    lost = negative_log_success(mean, shape)
    if lost == 0:
        return 1
    going_on = -math.expm1(-lost)  # 1 - gamma
    if shape == 0:
        mass = going_on / lost
    else:
        mass = shape * going_on / math.expm1(shape * lost)
    total, k = mass, 1
    while total < uniform and mass > 0:
        mass *= going_on * (k / (k + 1) if shape == 0 else (k + shape) / (k + 1))
        total, k = total + mass, k + 1
    return k


def _mean(lost: float, shape: float) -> float:
    """The mean at ln(1 / gamma) = lost."""
    if lost < 1e-12:
        return 1.0
    if shape == 0:
        return math.expm1(lost) / lost
    return shape * math.expm1(lost) / -math.expm1(-shape * lost)
