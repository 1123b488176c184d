"""Lower bounds on epsilon from one training run: E1 for (epsilon, delta), E2 for the whole trade-off function.

Both count how often the auditor guesses right which canaries were in the data, having guessed only on the most
telling ones. How many to guess on is fixed from the claimed mechanism beforehand, never from the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats
from scipy.special import ndtr, ndtri

from privacy.accounting import DpSgdEvent, epsilon, trade_off
from privacy.audit.canaries import Game

SIGNIFICANCE = 0.05  # of the lower bounds that are shown: 95 % confidence
_FRACTIONS = (0.5, 0.35, 0.25, 0.15, 0.1, 0.06, 0.03, 0.015)
_LARGEST = 100.0  # no lower bound on epsilon above is looked for
_SIMULATIONS = 4


@dataclass(frozen=True)
class Guesses:
    """How the membership guesses of one run went.

    Attributes:
        canaries: m, all canaries.
        guesses: r, those guessed on.
        correct: v, right guesses.
    """

    canaries: int
    guesses: int
    correct: int


def scores(observed: np.ndarray, claim: DpSgdEvent) -> np.ndarray:
    """Log likelihood ratio of "in the data" under the claimed mechanism, for each canary: float64 [canaries].

    sum_t ln(1 - q + q exp((z_t - 1/2) / sigma^2)), z_t = `observed` [steps, canaries].
    """
    q, exponent = claim.sampling_rate, (observed - 0.5) / claim.noise_multiplier**2
    with np.errstate(divide="ignore"):
        return np.logaddexp(np.log1p(-q), math.log(q) + np.nan_to_num(exponent)).sum(0)


def guess(score: np.ndarray, included: np.ndarray, each_side: int) -> Guesses:
    """Guess "in" for the `each_side` highest scores and "out" for as many lowest."""
    order = np.argsort(score, kind="stable")
    low, high = order[:each_side], order[len(order) - each_side :]
    return Guesses(len(score), 2 * each_side, int(included[high].sum() + (~included[low]).sum()))


def guesses_planned(canaries: int, claim: DpSgdEvent, merit: Callable[[Guesses], float]) -> int:
    """The number of guesses a side which does best, by the median of `merit`, on runs of the claimed mechanism."""
    generator = np.random.default_rng(0)  # public: only the plan depends on it
    choices = sorted({max(1, int(canaries * fraction)) for fraction in _FRACTIONS})
    merits = np.zeros((_SIMULATIONS, len(choices)))
    for row in merits:
        included = generator.random(canaries) < 0.5
        present = (generator.random((claim.steps, canaries)) < claim.sampling_rate) & included
        noise = claim.noise_multiplier * generator.standard_normal((claim.steps, canaries))
        score = scores(present + noise, claim)
        row[:] = [merit(guess(score, included, k)) for k in choices]
    return choices[int(np.argmax(np.median(merits, axis=0)))]


def one_run_p_value(found: Guesses, at_epsilon: float, delta: float) -> float:
    """An upper bound on the probability of this many right guesses under (epsilon, delta)-DP.

    Steinke, Nasr and Jagielski 2023, Theorem 5.2 and Appendix D.
    """
    m, r, v = found.canaries, found.guesses, found.correct
    right = 1 / (1 + math.exp(-at_epsilon))
    tail = float(stats.binom.sf(v - 1, r, right))
    if v == 0 or delta == 0:
        return tail
    i = np.arange(1, v + 1)
    slope = float(np.max((stats.binom.sf(v - i - 1, r, right) - tail) / i))
    return min(1.0, tail + 2 * m * delta * max(0.0, slope))


def one_run_bound(found: Guesses, delta: float, significance: float = SIGNIFICANCE) -> float:
    """E1: the largest epsilon that the guesses reject at `significance`; 0 if none."""
    return _largest(lambda e: one_run_p_value(found, e, delta) <= significance, _LARGEST)


def rejects_trade_off(
    found: Guesses, false_negative_rate: Callable[[float], float], significance: float
) -> bool:
    """Whether the guesses reject that the run obeys the symmetric trade-off function f (f-DP).

    Mahloujifar, Melis and Chaudhuri 2024, "Auditing f-Differential Privacy in One Run", with abstentions.

    Args:
        found: guesses of one run.
        false_negative_rate: f, from false-positive to least false-negative rate.
        significance: of the rejection.
    """
    m, r, v = found.canaries, found.guesses, found.correct
    right, wrong = significance * v / m, significance * (r - v) / m
    for i in range(v - 1, -1, -1):
        grown = max(wrong, false_negative_rate(1 - min(right, 1.0)))
        if grown == wrong:
            break
        right, wrong = min(1.0, right + i / (r - i) * (grown - wrong)), grown
    return right + wrong > r / m


def trade_off_p_value(found: Guesses, claim: DpSgdEvent) -> float:
    """The least significance at which the guesses reject the claimed mechanism's trade-off function."""
    f = _trade_off(claim)
    return least_significance(lambda level: rejects_trade_off(found, f, level))


def trade_off_bound(
    found: Guesses, claim: DpSgdEvent, delta: float, significance: float = SIGNIFICANCE
) -> float:
    """E2: the largest epsilon of a Poisson-subsampled Gaussian (claimed rate and steps) that the guesses reject.

    Mahloujifar, Melis and Chaudhuri 2024 (`rejects_trade_off`), by bisection over the noise multiplier.

    Args:
        found: guesses of one run.
        claim: gives sampling rate and steps, and the noise multiplier where the search begins.
        delta: of the epsilon.
        significance: of the rejection.

    Returns:
        A lower bound on epsilon at confidence 1 - `significance`; 0 if nothing is rejected.
    """

    def with_noise(sigma: float) -> DpSgdEvent:
        return DpSgdEvent(sigma, claim.sampling_rate, claim.steps)

    def rejected(sigma: float) -> bool:
        return rejects_trade_off(found, _trade_off(with_noise(sigma)), significance)

    low, high = claim.noise_multiplier, 32 * claim.noise_multiplier
    if not rejected(high):
        return 0.0
    if rejected(low):
        low, high = low / 4, low  # costly to account for: only when the claim itself is rejected
        if rejected(low):
            return epsilon([with_noise(low)], delta)
    for _ in range(9):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if rejected(middle) else (middle, high)
    return epsilon([with_noise(high)], delta)


def gaussian_bound(found: Guesses, significance: float = SIGNIFICANCE) -> float:
    """The largest mu of Gaussian DP that the guesses reject: quick to compute, and enough to plan the guesses of E2."""

    def rejected(mu: float) -> bool:
        return rejects_trade_off(found, lambda a: float(ndtr(-ndtri(a) - mu)), significance)

    return _largest(rejected, 20.0)


def least_significance(rejected: Callable[[float], bool]) -> float:
    """The least level in [1e-12, 1] at which a test rejects (1 if none): its p-value, rounded up."""
    low, high = -12.0, 0.0
    if rejected(10**low):
        return 10**low
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (low, middle) if rejected(10**middle) else (middle, high)
    return 10**high


def correct_guesses(game: Game, claim: DpSgdEvent, each_side: int) -> Guesses:
    """Guess on a run's canaries, `each_side` of them in the data and as many out, and count the right guesses."""
    return guess(scores(game.observed, claim), game.included, each_side)


@lru_cache(maxsize=64)
def _trade_off(event: DpSgdEvent) -> Callable[[float], float]:
    curve = trade_off([event])
    return lambda a: 1 - curve.true_positive_rate(min(1.0, max(0.0, a)))


def _largest(rejected: Callable[[float], bool], highest: float) -> float:
    """The largest value up to `highest` that is rejected, by bisection; rejection is easier at lower values."""
    if not rejected(0.0):
        return 0.0
    low, high = 0.0, highest
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low
