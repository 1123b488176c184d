"""Calibration and doubt of a model's probabilities, from noised tables alone. Post-processing: it costs no privacy.

Probabilities are corrected by one temperature and, for each question, a shift: log-odds z become z / T + b, which is
logistic recalibration (Cox 1958; Platt 1999) with one slope for all (Guo et al. 2017, arXiv 1706.04599; with shifts
Alexandari et al. 2020, arXiv 1901.06852). What is unlikely enough is left out of the possible answers by split
conformal prediction, answer by answer (Vovk 2012, arXiv 1209.2673), with a margin for the noise.

Both take a new record to be of a patient drawn as those who were held out: at another hospital neither need hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from privacy.metrics.estimate import estimate
from privacy.metrics.release import edges

_NORMAL_95 = 1.959964
_ONE_SIDED_95 = 1.644854
_SLOPES = (0.05, 20.0)  # of z: temperatures of 20 to 1/20
_SURE = 2.0  # a slope must be so many standard errors above 0


@dataclass(frozen=True)
class Calibration:
    """What pooled tables of Q questions say of probabilities.

    Attributes:
        temperature: T. Above 1 the model was too sure of itself.
        shifts: (Q,) b, in log-odds. Above 0 the answer was yes more often than the model said.
        patients: estimated number of those it rests on.
    """

    temperature: float
    shifts: tuple[float, ...]
    patients: float
    _covariance: (
        np.ndarray
    )  # (1 + Q, 1 + Q) of 1 / T and the shifts: from the noise, and from the choice of patients
    _tables: np.ndarray
    _std: float

    def corrected(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(Q,) probabilities of yes -> the same corrected, and the two ends of the 95 % intervals of the correction.

        The interval is of the share of yes among patients with this score; it is not one for a single patient, who is
        a yes or a no. Scores beyond the outer bins, where nothing tells them apart, count as those bins.
        """
        z = _clipped(_log_odds(scores), self._tables.shape[2])
        odds = z / self.temperature + np.array(self.shifts)
        slopes = np.zeros((len(z), 1 + len(z)))
        slopes[:, 0] = z
        slopes[np.arange(len(z)), 1 + np.arange(len(z))] = 1
        reach = _NORMAL_95 * np.sqrt(np.einsum("qi,ij,qj->q", slopes, self._covariance, slopes))
        return _probability(odds), _probability(odds - reach), _probability(odds + reach)

    def possible(self, scores: np.ndarray, level: float) -> np.ndarray:
        """(Q, 2) bool: whether no and yes are possible answers for a record with these (Q,) probabilities of yes.

        Of the patients whose answer is no, and of those whose answer is yes, it is among the possible for a share of
        `level` or more; that holds for 95 % of draws of the noise. Where neither would be, both are.
        """
        bins = self._tables.shape[2]
        at = np.digitize(scores, edges(bins)[1:-1])
        found = np.ones((len(scores), 2), dtype=bool)
        for question, table in enumerate(self._tables):
            found[question, 1] = at[question] >= _unlikely(table[1], self._std, 1 - level)
            found[question, 0] = bins - 1 - at[question] >= _unlikely(table[0, ::-1], self._std, 1 - level)
        found[~found.any(axis=1)] = True
        return found


def calibrate(tables: np.ndarray, std: float) -> Calibration | str:
    """Fit `Calibration` to pooled tables (Q, 2, B) whose cells have noise of standard deviation `std`.

    Its error takes the answers to several questions to be independent.

    Returns:
        It; or in words why there is none.
    """
    seen = estimate(tables, std)
    if seen.refused is not None:
        return {
            "few-patients": "the results that the hospitals released are of too few patients",
            "noise": "the noise on the released results is too large for them",
        }[seen.refused]
    questions, _, bins = tables.shape
    z = _middles(bins)

    def parts(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(Q, B) log-odds and probabilities of yes under 1 / T and the shifts."""
        odds = x[0] * z + x[1:, None]
        return odds, _probability(odds)

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        odds, share = parts(x)
        value = (tables[:, 1] * np.logaddexp(0, -odds) + tables[:, 0] * np.logaddexp(0, odds)).sum()
        off = tables.sum(axis=1) * share - tables[:, 1]
        return float(value), np.concatenate([[(off * z).sum()], off.sum(axis=1)])

    bounds = [_SLOPES, *[(-10.0, 10.0)] * questions]
    best = minimize(loss, np.array([1.0, *[0.0] * questions]), jac=True, method="L-BFGS-B", bounds=bounds).x
    covariance = _covariance(tables, std, z, parts(best)[1])
    if covariance is None or best[0] <= _SLOPES[0] or best[0] < _SURE * math.sqrt(covariance[0, 0]):
        return (
            "the released results do not show that a higher probability means more patients with the answer"
        )
    return Calibration(float(1 / best[0]), tuple(best[1:].tolist()), seen.patients, covariance, tables, std)


def _covariance(tables: np.ndarray, std: float, z: np.ndarray, share: np.ndarray) -> np.ndarray | None:
    """Of the fit, by the delta method: noise in every cell, and the choice of patients; None if it says nothing."""
    questions, _, bins = tables.shape
    design = np.zeros((questions, bins, 1 + questions))
    design[:, :, 0] = z
    for question in range(questions):
        design[question, :, 1 + question] = 1
    weight = np.maximum(tables.sum(axis=1), 0) * share * (1 - share)
    hessian = np.einsum("qb,qbi,qbj->ij", weight, design, design)
    # one patient more in a cell moves the gradient by its residual times the design; those of no and yes are apart
    noise = std**2 * np.einsum("qb,qbi,qbj->ij", share**2 + (1 - share) ** 2, design, design)
    if np.linalg.eigvalsh(hessian).min() <= 0:
        return None
    inverse = np.linalg.inv(hessian)
    covariance: np.ndarray = inverse @ noise @ inverse + inverse
    return covariance


def _unlikely(counts: np.ndarray, std: float, share: float) -> int:
    """How many bins, from the first, hold together at most `share` of the (B,) counts of one answer.

    Split conformal prediction leaves out a bin if 1 and those at or below it are at most `share` of all and 1. Here
    also if the noise had been 1.6 standard deviations in favour; bins are tried in order up to the first that fails, so
    that no correction for their number is due (Bauer 1991).
    """
    bins = len(counts)
    for number in range(1, bins + 1):
        below = float(counts[:number].sum())
        spread = std * math.sqrt(number * (1 - share) ** 2 + (bins - number) * share**2)
        if below + 1 - share * (float(counts.sum()) + 1) + _ONE_SIDED_95 * spread > 0:
            return number - 1
    return bins


def _middles(bins: int) -> np.ndarray:
    """(bins,) log-odds in the middle of each bin; an outer bin, which has no end, is as wide as the next."""
    inner = _log_odds(edges(bins)[1:-1])
    first, last = 2 * inner[0] - inner[1], 2 * inner[-1] - inner[-2]
    ends = np.concatenate([[first], inner, [last]])
    middles: np.ndarray = (ends[:-1] + ends[1:]) / 2
    return middles


def _clipped(z: np.ndarray, bins: int) -> np.ndarray:
    middles = _middles(bins)
    return np.clip(z, middles[0], middles[-1])


def _log_odds(probability: np.ndarray) -> np.ndarray:
    kept = np.clip(probability, 1e-12, 1 - 1e-12)
    odds: np.ndarray = np.log(kept / (1 - kept))
    return odds


def _probability(odds: np.ndarray) -> np.ndarray:
    probability: np.ndarray = 1 / (1 + np.exp(-odds))
    return probability
