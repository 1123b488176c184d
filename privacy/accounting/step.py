"""The privacy loss of one step, discretised by dp-accounting's "connect the dots" (arXiv 2207.04380).

The hockey-stick divergence of the subsampled Gaussian is computed here, for all points of the grid at once:
dp-accounting does it point by point, which took most of the time of a plan. Discretisation, composition and solving
are dp-accounting's. With G(u) = Phi(1/(2 s) - u s) - e^u Phi(-1/(2 s) - u s), the divergence of the whole Gaussian
mechanism at level u (Balle and Wang 2018, arXiv 1805.06530, Theorem 8), sampling at rate q gives (the first is
Theorem 2 of Balle, Barthe and Gaboardi 2018, arXiv 1807.01647)

    one unit removed:  q G(ln((e^epsilon - 1 + q) / q))
    one unit added:    q e^(epsilon - u) G(u) with u = -ln((e^-epsilon - 1 + q) / q); 0 from -ln(1 - q) on

for epsilon of 0 or more; below, from H' of the two exchanged: H(epsilon) = 1 - e^epsilon + e^epsilon H'(-epsilon).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

_EXPONENT = 700.0  # below the largest of a double


def gaussian_step(sigma: float, rate: float, width: float) -> PrivacyLossDistribution:
    """One step's privacy loss, add/remove of one unit: an upper bound on multiples of `width`."""
    from dp_accounting.pld import pld_pmf, privacy_loss_distribution
    from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss

    parts = []
    for adjacency in (AdjacencyType.REMOVE, AdjacencyType.ADD)[: 1 if rate == 1 else 2]:
        loss = GaussianPrivacyLoss(sigma, sampling_prob=rate, adjacency_type=adjacency)
        bounds = loss.connect_dots_bounds()
        first, last = math.floor(bounds.epsilon_lower / width), math.ceil(bounds.epsilon_upper / width)
        levels = np.arange(first, last + 1) * width
        deltas = divergence(levels, sigma, rate, added=adjacency is AdjacencyType.ADD)
        part = pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(width, first, last, deltas)
        parts.append(part.to_dense_pmf())  # a sparse one composes term by term
    return privacy_loss_distribution.PrivacyLossDistribution(*parts)


def divergence(epsilons: np.ndarray, sigma: float, rate: float, *, added: bool) -> np.ndarray:
    """Hockey-stick divergence of one step of the subsampled Gaussian, by the equations of the module's text.

    Args:
        epsilons: levels, float64 [levels], of either sign.
        sigma: noise multiplier.
        rate: q, in (0, 1].
        added: the second data set has one unit more; else one less.

    Returns:
        float64 [levels] in [0, 1].
    """
    if rate == 1:
        return _whole(epsilons, sigma)
    found = np.empty_like(epsilons)
    below = epsilons < 0
    found[~below] = (_added if added else _removed)(epsilons[~below], sigma, rate)
    # Below 0 from above 0 with the two exchanged, which cancels nothing.
    other = (_removed if added else _added)(-epsilons[below], sigma, rate)
    found[below] = np.exp(epsilons[below]) * other - np.expm1(epsilons[below])
    return np.clip(found, 0.0, 1.0)


def _removed(at: np.ndarray, sigma: float, rate: float) -> np.ndarray:
    small = np.minimum(at, _EXPONENT)  # beyond, what is not the exponential is lost beside it
    return rate * _whole(np.log(np.expm1(small) + rate) - math.log(rate) + (at - small), sigma)


def _added(at: np.ndarray, sigma: float, rate: float) -> np.ndarray:
    found = np.zeros_like(at)
    inside = np.expm1(-at) + rate > 0
    level = -np.log((np.expm1(-at[inside]) + rate) / rate)
    found[inside] = rate * np.exp(at[inside] - level) * _whole(level, sigma)
    return found


def _whole(levels: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.special import log_ndtr, ndtr

    middle = -levels * sigma
    within, without = middle + 0.5 / sigma, middle - 0.5 / sigma
    with np.errstate(over="ignore", invalid="ignore"):
        taken = np.exp(np.minimum(levels + log_ndtr(without), 0.0))
    return np.clip(ndtr(within) - np.where(np.isnan(taken), 0.0, taken), 0.0, 1.0)
