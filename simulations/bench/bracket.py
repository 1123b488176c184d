"""An accountant of our own that bounds epsilon from both sides, to hold the reported one against.

One step of the Poisson-subsampled Gaussian mechanism is P = (1 - q) N(0, s^2) + q N(1, s^2) against Q = N(0, s^2). Its
privacy loss L(x) = log(1 - q + q exp((2x - 1) / (2 s^2))) grows with x, so the probability that it lies between two
multiples of h is a difference of normal distribution functions: exact. Losses rounded down to multiples of h add up, by
FFT, to no more than the losses themselves, and rounded up to no less; since delta(epsilon) = E[(1 - e^(epsilon - L))+]
grows with L, both bound epsilon, steps x h apart. Nothing is shared with the accountants of `privacy.accounting`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft
from scipy.special import logsumexp, ndtr

Segment = tuple[float, float, int]  # noise multiplier s, sampling rate q, steps

_TAIL = 36.0  # -log of the probability that is left out at either end of a sum, 2e-16
_SIGMAS = 12.0  # of the noise; 1e-33 lies beyond
_ROUNDING = 1e-11  # of the FFT, in delta; beside exact Gaussians it stays below
_MOST_POINTS = 1 << 26


@dataclass(frozen=True)
class Bracket:
    """Bounds on epsilon, and an estimate between them."""

    lower: float
    upper: float

    @property
    def middle(self) -> float:
        """The estimate: errors of rounding losses to the nearest multiple of h cancel to second order in h."""
        return (self.lower + self.upper) / 2


def bracket(segments: Sequence[Segment], delta: float, gap: float) -> Bracket:
    """Bounds, `gap` apart, on the epsilon at `delta` of all steps, add/remove of one unit, the worse of both.

    Raises:
        ValueError: the gap would need more than 2^26 points.
    """
    width = gap / sum(steps for _, _, steps in segments)
    bounds = []
    for removed in (True, False):
        steps = [_losses(s, q, width, removed) for s, q, _ in segments]
        bounds.append(_rounded_down(steps, [count for _, _, count in segments], delta, width))
    # Rounded up, every loss is one multiple more: epsilon is `gap` more.
    return Bracket(max(0.0, *(low for low, _ in bounds)), max(0.0, *(high + gap for _, high in bounds)))


def _losses(s: float, q: float, width: float, removed: bool) -> tuple[int, np.ndarray]:
    """Probabilities [levels] that one step's loss, rounded down, is (first + i) x width; returns first and them."""
    low, high = (math.log1p(q * math.expm1((2 * x - 1) / (2 * s * s))) if q < 1 else (2 * x - 1) / (2 * s * s)
                 for x in (-_SIGMAS * s, 1 + _SIGMAS * s))  # fmt: skip
    first, last = math.floor(low / width), math.ceil(high / width)
    edges = np.arange(first, last + 1) * width
    with np.errstate(divide="ignore", invalid="ignore"):
        # x where the loss is the edge. Losses are above log(1 - q), which the first edge may not be.
        x = s * s * (edges if q == 1 else np.log((np.expm1(edges) + q) / q)) + 0.5
    x[np.isnan(x)] = -np.inf
    noise = _between(x / s)
    masses = (1 - q) * noise + q * _between((x - 1) / s) if removed else noise
    return (first, masses) if removed else (-last, masses[::-1])


def _between(z: np.ndarray) -> np.ndarray:
    """Standard normal probabilities between neighbours of the ascending `z`, precise in both tails."""
    left, right = z[:-1], z[1:]
    return np.where(left > 0, ndtr(-left) - ndtr(-right), ndtr(right) - ndtr(left))


def _rounded_down(
    steps: Sequence[tuple[int, np.ndarray]], counts: Sequence[int], delta: float, width: float
) -> tuple[float, float]:
    """Epsilon of the losses as they were rounded; from below and from above, for what the FFT rounds."""
    start, end = _range(steps, counts, width)
    size = fft.next_fast_len(max(end - start + 1, *(masses.size for _, masses in steps)), real=True)
    if size > _MOST_POINTS:
        raise ValueError(f"{size} points are needed; expected at most {_MOST_POINTS}: choose a wider gap")
    spectrum = np.ones(size // 2 + 1, dtype=np.complex128)
    offset = 0
    for (first, masses), count in zip(steps, counts, strict=True):
        spectrum *= fft.rfft(masses, size) ** count
        offset += first * count
    total = np.roll(fft.irfft(spectrum, size), (offset - start) % size)[: end - start + 1]
    losses = np.arange(start, end + 1) * width
    # delta at the losses themselves: of all above, less e^epsilon times their probability without the unit.
    above = np.cumsum(total[::-1])[::-1] - total
    without = np.cumsum((total * np.exp(-losses))[::-1])[::-1] - total * np.exp(-losses)
    deltas = above - np.exp(losses) * without
    return _solve(losses, deltas, above, without, delta + _ROUNDING), _solve(
        losses, deltas, above, without, delta - _ROUNDING
    )


def _solve(
    losses: np.ndarray, deltas: np.ndarray, above: np.ndarray, without: np.ndarray, delta: float
) -> float:
    """Where delta(epsilon), exponential between two losses, falls to `delta`."""
    i = int(np.argmax(deltas <= delta))
    if i == 0:
        return -math.inf
    return min(float(losses[i]), math.log((above[i - 1] - delta) / without[i - 1]))


def _range(steps: Sequence[tuple[int, np.ndarray]], counts: Sequence[int], width: float) -> tuple[int, int]:
    """Least and greatest multiple of `width` that the sum reaches, but for 2e-16 either side (Chernoff's bound)."""
    bounds = []
    for sign in (-1, 1):
        found = []
        for order in sign * np.geomspace(1e-2, 1e4, 49):
            cumulant = sum(
                count * logsumexp((first + np.arange(masses.size)) * width * order, b=np.maximum(masses, 0))
                for (first, masses), count in zip(steps, counts, strict=True)
            )
            found.append((cumulant + _TAIL) / order)
        bounds.append(max(found) if sign < 0 else min(found))
    return math.floor(bounds[0] / width) - 1, math.ceil(bounds[1] / width) + 1
