"""Epsilon and delta in closed form. For compositions there is `simulations.bench.bracket`."""

from __future__ import annotations

import math

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
