"""E4: a lower bound on epsilon from the whole scores of one run's canaries, not from guesses.

After Agrawal, Wei, Singh, Magdon-Ismail and Zikas 2026, "Let's Ask Gauss: Improved One-Run Privacy Auditing", arXiv
2606.12733: a canary's score is the sum over the steps of what was released along it, which is asymptotically
Gaussian for canaries in the data and for those left out; the two Gaussians bound epsilon in closed form. Only the
paper's abstract and summaries of it could be read. The statistics below were derived for this audit and may differ
from the paper's.

Assumed: the canaries' coordinates are orthogonal, so that their noises are independent, and (for the bound alone)
that a sum of as many steps is normal. The p-value against the claim assumes nothing of the kind.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats
from scipy.special import log_ndtr, ndtr

from privacy.accounting import DpSgdEvent
from privacy.audit.bounds import SIGNIFICANCE
from privacy.audit.canaries import Game


def whole_score_p_value(game: Game, claim: DpSgdEvent) -> float:
    """Probability, at most, of canaries so far apart, or so quiet, under the claimed mechanism.

    Under it the mean score of those in the data minus the mean of those left out is Bin(n T, q) / n (or less, where
    clipping leaves less than C) plus a normal of variance T sigma^2 (1/n + 1/m), and the sum of squares of the m
    left out is T sigma^2 chi-square with m degrees of freedom: both exact.
    """
    present, absent, steps = _scores(game)
    if not (len(present) and len(absent)):
        return 1.0
    deviation = claim.noise_multiplier * math.sqrt(steps)
    quiet = float(stats.chi2.cdf((absent**2).sum() / deviation**2, len(absent)))
    apart = float(present.mean() - absent.mean())
    spread = deviation * math.sqrt(1 / len(present) + 1 / len(absent))
    law = stats.binom(len(present) * steps, claim.sampling_rate)
    counts = np.arange(int(law.ppf(1e-13)), int(law.isf(1e-13)) + 1)
    far = float((law.pmf(counts) * ndtr((counts / len(present) - apart) / spread)).sum()) + 2e-13
    return min(1.0, 2 * min(quiet, far))


def whole_score_bound(game: Game, delta: float, significance: float = SIGNIFICANCE) -> float:
    """E4: epsilon at `delta` of the two Gaussians, at confidence 1 - `significance`.

    mu is at least the lower confidence limit of the means' difference (Student's t, unequal variances) over the
    upper limit of the larger deviation (chi-square); epsilon is that of mu-GDP (Dong, Roth and Su 2022,
    Corollary 2.13). A larger variance of those in the data, which would add to epsilon, is not counted.
    """
    present, absent, _ = _scores(game)
    if min(len(present), len(absent)) < 2:
        return 0.0
    level = significance / 3  # the difference, and each of the two deviations
    variances = np.array([present.var(ddof=1), absent.var(ddof=1)])
    freedom = np.array([len(present), len(absent)]) - 1
    errors = variances / (freedom + 1)
    joint = errors.sum() ** 2 / max((errors**2 / freedom).sum(), 1e-300)  # Welch and Satterthwaite
    difference = present.mean() - absent.mean() - stats.t.isf(level, joint) * math.sqrt(errors.sum())
    if difference <= 0:
        return 0.0
    largest = float((variances * freedom / stats.chi2.ppf(level, freedom)).max())
    return gaussian_epsilon(float(difference) / math.sqrt(largest), delta) if largest > 0 else math.inf


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon at `delta` of mu-GDP: the root of delta = Phi(mu/2 - e/mu) - exp(e) Phi(-mu/2 - e/mu)."""

    def excess(epsilon: float) -> float:
        return float(
            ndtr(mu / 2 - epsilon / mu)
            - math.exp(min(0.0, epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))))
        )

    if mu <= 0 or excess(0.0) <= delta:
        return 0.0
    low, high = 0.0, mu**2 / 2 + 40 * mu
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > delta else (low, middle)
    return low


def _scores(game: Game) -> tuple[np.ndarray, np.ndarray, int]:
    """Sums over the steps of the canaries in the data and of those left out, and the number of steps."""
    scores = game.observed.sum(0)
    return scores[game.included], scores[~game.included], len(game.observed)
