"""What independent Gaussian noise must look like: p-values for its law and its newness, whatever the fault.

All inputs are float64 [steps, coordinates] in units of the claimed standard deviation, of noise alone.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

_MOST_COORDINATES = 20_000  # of the test of linear dependence, whose cost grows with them
_TAILS = (1.0, 2.0, 3.0, 4.0)
_CLEARLY = 1e-9  # p-value below which a tensor is louder than claimed, which is no fault


LATTICE = 2.0**-24  # of `privacy.noise`, in standard deviations


def worst(p_values: list[float]) -> float:
    """The smallest of several p-values times their number, at most 1 (Bonferroni); 1 without any."""
    return min(1.0, min(p_values) * len(p_values)) if p_values else 1.0


def quieted(noise: np.ndarray) -> np.ndarray:
    """The noise, scaled to deviation 1 if it is clearly larger: more noise than claimed is permitted."""
    total = float((noise**2).sum())
    if noise.size and stats.chi2.sf(total, noise.size) < _CLEARLY:
        return noise / math.sqrt(total / noise.size)
    return noise


def normal_p_value(noise: np.ndarray) -> float:
    """Whether the values are standard normal: Kolmogorov-Smirnov, and binomial counts of four tails; all exact.

    Noise that is lacking in size is left to the chi-square tests, which see it sooner.
    """
    values = np.sort(noise, axis=None)
    n = len(values)
    law = stats.norm.cdf(values)
    ranks = np.arange(n + 1) / n
    distance = float(max((ranks[1:] - law).max(), (law - ranks[:-1]).max()))
    p_values = [float(stats.kstwo.sf(distance, n))]
    for threshold in _TAILS:
        beyond = n - int(np.searchsorted(values, threshold)) + int(np.searchsorted(values, -threshold))
        count = stats.binom(n, 2 * stats.norm.sf(threshold))
        p_values.append(float(min(1.0, 2 * min(count.cdf(beyond), count.sf(beyond - 1)))))
    return worst(p_values)


def dependence_p_value(noise: np.ndarray) -> float:
    """Whether a step's noise lies closer than chance to what earlier steps' noises, or a constant, combine to.

    A Gaussian vector in d dimensions has its direction uniformly distributed, so the share of its square inside
    the span of any k vectors that it does not depend on follows Beta(k/2, (d - k)/2): exact for each step.
    Repeated, re-scaled, added or smoothed noise, noise from a generator that starts again, and noise of few
    numbers spread over many coordinates all lie in such a span.
    """
    if noise.shape[1] > _MOST_COORDINATES:
        noise = noise[:, :: math.ceil(noise.shape[1] / _MOST_COORDINATES)]
    dimension = noise.shape[1]
    vectors = np.vstack([np.ones(dimension), noise[: dimension // 2]])
    triangle = np.asarray(np.linalg.qr(vectors.T, mode="r"))
    p_values = []
    for step in range(1, len(vectors)):
        squares = triangle[: step + 1, step] ** 2
        if (total := float(squares.sum())) > 0:  # else there is no noise at all: C1
            share = float(squares[:-1].sum()) / total
            p_values.append(float(stats.beta.sf(share, step / 2, (dimension - step) / 2)))
    return worst(p_values)


def likeness_p_value(noise: np.ndarray) -> float:
    """The most alike of all pairs of steps, by the cosine of their noises: Student's t, exact."""
    norms = np.linalg.norm(noise, axis=1, keepdims=True)
    rows = noise / np.where(norms > 0, norms, 1)
    if len(rows) < 2 or rows.shape[1] < 3:
        return 1.0
    cosines = np.abs(np.triu(rows @ rows.T, 1))
    largest = min(1.0, float(cosines.max()))
    freedom = rows.shape[1] - 1
    if largest >= 1:
        return 0.0
    t = largest * math.sqrt(freedom / (1 - largest**2))
    return float(min(1.0, 2 * stats.t.sf(t, freedom) * len(rows) * (len(rows) - 1) / 2))


def repetition_p_value(noise: np.ndarray, epsilon: float, lattice: float = LATTICE) -> float:
    """Whether sizes |z| occur again more often than the precision explains: anywhere, and at the same coordinate.

    Args:
        noise: as released, so that equal numbers are equal.
        epsilon: relative precision of the numbers that were released.
        lattice: gap between the values that noise can take, in its standard deviations.

    Pairs of equal values among n are nearly Poisson with mean n(n-1)/2 x sum over representable values of their
    squared probability. That sum is at most the integral of (2 phi)^2 times the gap between neighbours, which is
    no wider than epsilon |z| plus the noise's lattice.
    """
    alike = 2 / math.pi * (epsilon / 2 + lattice * math.sqrt(math.pi) / 2)
    sizes = np.abs(noise)
    anywhere, n = _equal_pairs(sizes.reshape(-1, 1)), sizes.size
    in_place, steps = _equal_pairs(sizes), len(sizes)
    expected = (n * (n - 1) / 2 * alike, sizes.shape[1] * steps * (steps - 1) / 2 * alike)
    # A fifth more, for rounding on the way and for values that occur three times.
    return worst(
        [
            float(stats.poisson.sf(found - 1, 1.2 * mean))
            for found, mean in zip((anywhere, in_place), expected, strict=True)
        ]
    )


def _equal_pairs(values: np.ndarray) -> int:
    """Pairs of equal values within a column, over all columns; zeros are not counted (no noise: C1)."""
    pairs = 0
    for column in np.sort(values, axis=0).T:
        column = column[column > 0]
        ends = np.flatnonzero(np.diff(column, append=np.inf))
        runs = np.diff(ends, prepend=-1)
        pairs += int((runs * (runs - 1) // 2).sum())
    return pairs
