"""E3: a lower bound on the privacy loss of one step, composed over all of them.

After Nasr et al. 2023, "Tight Auditing of Differentially Private Machine Learning": the auditor sees every step and
tells, by a threshold, whether a canary was in it. Its error rates bound mu of Gaussian DP (Dong, Roth and Su
2022, "Gaussian Differential Privacy", Theorem 2.7 and Corollary 2.1).
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from privacy.accounting import DpSgdEvent, epsilon
from privacy.audit.bounds import SIGNIFICANCE, least_significance
from privacy.audit.canaries import Game

_THRESHOLDS = (0.0, 0.5, 1.0)
_LEAST_NOISE = 0.1  # a lower noise multiplier is reported as this one: epsilon is absurd long before


def step_observations(game: Game) -> tuple[np.ndarray, np.ndarray]:
    """The observed values, float64 [n], of canaries drawn into a step, and of canaries never in the data."""
    return game.observed[game.present], game.observed[:, ~game.included].ravel()


def mu_bound(drawn: np.ndarray, absent: np.ndarray, significance: float = SIGNIFICANCE) -> float:
    """Largest mu such that no step can be mu'-GDP for mu' < mu, at confidence 1 - `significance`; 0 if none.

    Clopper-Pearson bounds on both error rates at three thresholds fixed beforehand, Bonferroni over the six.
    """
    level = significance / (2 * len(_THRESHOLDS))
    best = 0.0
    for threshold in _THRESHOLDS:
        misses = _upper(int((drawn <= threshold).sum()), len(drawn), level)
        false_alarms = _upper(int((absent > threshold).sum()), len(absent), level)
        best = max(best, float(stats.norm.isf(false_alarms) - stats.norm.ppf(misses)))
    return best


def step_p_value(drawn: np.ndarray, absent: np.ndarray, claim: DpSgdEvent) -> float:
    """The least significance at which a step's mu is above the claimed 1 / sigma."""
    return least_significance(lambda level: mu_bound(drawn, absent, level) > 1 / claim.noise_multiplier)


def step_bound(drawn: np.ndarray, absent: np.ndarray, claim: DpSgdEvent, delta: float) -> float:
    """E3: epsilon of all claimed steps, with the largest noise that the bound on mu leaves possible.

    Args:
        drawn: float64 [n], observations of canaries that were drawn into the step.
        absent: float64 [n], observations of canaries that were never in the data.
        claim: gives sampling rate and steps.
        delta: of the epsilon.

    Returns:
        A lower bound on epsilon at 95 % confidence; 0 if there is none.
    """
    mu = mu_bound(drawn, absent)
    if mu <= 0:
        return 0.0
    return epsilon([DpSgdEvent(max(1 / mu, _LEAST_NOISE), claim.sampling_rate, claim.steps)], delta)


def _upper(events: int, trials: int, level: float) -> float:
    """Clopper-Pearson upper confidence bound on a probability."""
    return 1.0 if events >= trials else float(stats.beta.ppf(1 - level, events + 1, trials - events))
