"""How far a predicted number between public bounds is off: sums with Gaussian noise, and what follows from them.

Prediction p and truth y are shares of the range, in [0, 1]. Of each patient the mean over the records of which y is
known is taken of the vector

    (1, |p - y|, (p - y)^2, y - 1/2, (y - 1/2)^2),

whose entries are at most `MOST` in size: so is the mean, and adding or removing a patient moves the sum over patients
by at most their Euclidean length. Centring the truth costs nothing, since a variance does not depend on it, and makes
the last two bounds a half and a quarter.
"""

from __future__ import annotations

import math

import numpy as np

from privacy.metrics.estimate import MIN_PATIENTS
from privacy.metrics.release import require_shares, weights
from privacy.metrics.scores import ScoreEstimate, interval

MOST = (1.0, 1.0, 1.0, 0.5, 0.25)
_SURE = 4.0  # a spread of the truth that is not so many standard errors above 0 may be none


def exact_sums(score: np.ndarray, label: np.ndarray, patient: np.ndarray) -> np.ndarray:
    """(1, 1, 5) float64, the sum over patients. It never leaves the site.

    Args:
        score: (N, 1) predictions as shares of the range.
        label: (N, 1) truths, NaN where not known.
        patient: (N,) whose record each is, 0 .. patients - 1.

    Raises:
        NoiseError: a prediction or a truth is not in [0, 1].
    """
    known = ~np.isnan(label[:, 0])
    predicted, true = score[known, 0], label[known, 0]
    require_shares(predicted)
    require_shares(true)
    off, centred = np.abs(predicted - true), true - 0.5
    rows = np.stack([np.ones_like(off), off, off**2, centred, centred**2], axis=1)
    return (weights(patient[known]) @ rows).reshape(1, 1, len(MOST))


def estimate(sums: np.ndarray, std: float) -> ScoreEstimate:
    """Mean absolute error as a share of the range, and R2 (cut at -1), a patient weighing 1.

    Errors of the noise are by the delta method.

    Args:
        sums: (1, 1, 5) float64, the sum over sites.
        std: standard deviation of the noise in each cell.
    """
    count, off, square, first, second = sums.ravel()
    if count < MIN_PATIENTS:
        return ScoreEstimate(float(count), std, {}, higher=False, refused="few-patients")
    mae = off / count
    error = std * math.hypot(1.0, mae) / count
    found = {"mae": interval(mae, error, 0.0, 0.0, 1.0)}
    mean = first / count
    spread = second - count * mean**2  # the sum of squares around the mean
    if spread > _SURE * std * math.sqrt(1 + 4 * mean**2 + mean**4):
        ratio = square / spread
        slopes = (
            np.array([ratio * mean**2, -1.0, -2 * ratio * mean, ratio]) / spread
        )  # count, square, first, second
        found["r2"] = interval(1 - ratio, std * float(np.linalg.norm(slopes)), 0.0, -1.0, 1.0)
    return ScoreEstimate(float(count), std, found, higher=False, noise_error=float(error))
