"""Epsilon and delta the slow, obvious way: closed forms, and rounding the privacy loss down and up."""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, stats


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Exact delta of the Gaussian mechanism with sensitivity over noise `mu` (Balle and Wang 2018, Theorem 8)."""
    above = epsilon + stats.norm.logcdf(-mu / 2 - epsilon / mu)
    return float(stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(above))


def gaussian_epsilon(delta: float, mu: float) -> float:
    """Exact epsilon of the Gaussian mechanism."""
    if gaussian_delta(0.0, mu) <= delta:
        return 0.0
    return float(optimize.brentq(lambda e: gaussian_delta(e, mu) - delta, 0.0, mu * mu + 20 * mu, xtol=1e-12))


def subsampled_delta(epsilon: float, sigma: float, q: float) -> float:
    """Exact delta of one step of the Poisson-subsampled Gaussian, the worse of adding and removing."""
    # P = (1-q) N(0, s^2) + q N(1, s^2) against Q = N(0, s^2); the likelihood ratio grows with x.
    removed = added = 0.0
    if (ratio := (math.exp(epsilon) - 1 + q) / q) > 0:
        x = sigma**2 * math.log(ratio) + 0.5
        upper = (1 - q) * stats.norm.sf(x / sigma) + q * stats.norm.sf((x - 1) / sigma)
        removed = upper - math.exp(epsilon) * stats.norm.sf(x / sigma)
    if (ratio := (math.exp(-epsilon) - 1 + q) / q) > 0:
        x = sigma**2 * math.log(ratio) + 0.5
        lower = (1 - q) * stats.norm.cdf(x / sigma) + q * stats.norm.cdf((x - 1) / sigma)
        added = stats.norm.cdf(x / sigma) - math.exp(epsilon) * lower
    return float(max(removed, added))


def composed_epsilon(segments: list[tuple[float, float, int]], delta: float, h: float) -> tuple[float, float]:
    """Bounds (lower, upper) on epsilon of composed (sigma, q, steps): losses rounded down, or up, to multiples of h.

    Removal of one unit, which dominates for the Poisson-subsampled Gaussian. The gap is about h x steps.
    """
    bounds = []
    for rounding in (np.floor, np.ceil):
        total = np.zeros(1 << 20)
        spectrum = np.ones((1 << 19) + 1, dtype=complex)
        shift = 0
        for sigma, q, steps in segments:
            x = np.linspace(-9 * sigma, 1 + 9 * sigma, 2_000_001)
            cdf = (1 - q) * stats.norm.cdf(x / sigma) + q * stats.norm.cdf((x - 1) / sigma)
            loss = np.log1p(q * np.expm1((2 * x - 1) / (2 * sigma**2)))
            # Mass between two grid points, at the loss of the end that errs the right way.
            cells = loss[:-1] if rounding is np.floor else loss[1:]
            levels = rounding(cells / h).astype(np.int64)
            start = int(levels.min())
            pmf = np.bincount(levels - start, weights=np.diff(cdf))
            assert pmf.size * steps < 1 << 22, "choose a coarser h"
            spectrum = spectrum * np.fft.rfft(pmf, total.size) ** steps
            shift += start * steps
        mass = np.fft.irfft(spectrum, total.size)
        losses = (np.arange(total.size) + shift) * h

        def excess(epsilon: float, losses: np.ndarray = losses, mass: np.ndarray = mass) -> float:
            high = losses > epsilon
            return float(np.sum(-np.expm1(epsilon - losses[high]) * mass[high])) - delta

        bounds.append(float(optimize.brentq(excess, 0.0, losses[-1])) if excess(0.0) > 0 else 0.0)
    return bounds[0], bounds[1]
