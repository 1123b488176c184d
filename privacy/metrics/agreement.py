"""How far an answer agrees with the true one, a share of each record: a sum with Gaussian noise, and its mean.

Of each patient the mean over the records of which the truth is known is taken of the vector

    (1, a - 1/2),

a in [0, 1] how far the answer agrees with the truth; its entries are at most `MOST` in size. So is the mean, and adding
or removing a patient moves the sum over patients by at most their Euclidean length. Only what is a mean over records
can be released so: not BLEU or F1, which are ratios of sums without a bound a patient.
"""

from __future__ import annotations

import math

import numpy as np

from privacy.metrics.estimate import MIN_PATIENTS
from privacy.metrics.release import require_shares, weights
from privacy.metrics.scores import ScoreEstimate, interval

MOST = (1.0, 0.5)


def exact_sums(score: np.ndarray, label: np.ndarray, patient: np.ndarray) -> np.ndarray:
    """(1, 1, 2) float64, the sum over patients. It never leaves the site.

    Args:
        score: (N, 1) agreement.
        label: (N, 1) 1 where the truth is known, NaN elsewhere.
        patient: (N,) whose record each is, 0 .. patients - 1.

    Raises:
        NoiseError: an agreement is not in [0, 1].
    """
    known = ~np.isnan(label[:, 0])
    agreement = score[known, 0]
    require_shares(agreement)
    rows = np.stack([np.ones_like(agreement), agreement - 0.5], axis=1)
    return (weights(patient[known]) @ rows).reshape(1, 1, len(MOST))


def estimate(sums: np.ndarray, std: float) -> ScoreEstimate:
    """The mean agreement, a patient weighing 1; the error of the noise is by the delta method.

    Args:
        sums: (1, 1, 2) float64, the sum over sites.
        std: standard deviation of the noise in each cell.
    """
    count, centred = sums.ravel()
    if count < MIN_PATIENTS:
        return ScoreEstimate(float(count), std, {}, refused="few-patients")
    mean = centred / count
    error = std * math.hypot(1.0, mean) / count
    found = {"agreement": interval(float(mean + 0.5), error, 0.0, 0.0, 1.0)}
    return ScoreEstimate(float(count), std, found, noise_error=float(error))
