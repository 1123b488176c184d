"""Whether those for whom more risk is predicted have the event earlier: counts with noise, and the C-index.

There is a table an interval of time and one for what lies behind the last border; a table has a row of those who left
observation in the interval and a row of those who had the event in it, over `BINS` bins of the risk (`edges`). A
patient counts 1 in all tables together, spread evenly over the patient's records: adding or removing one moves them by
a vector of sum 1 and so of Euclidean length 1 at most, however many intervals there are. The C-index compares pairs of
patients, and no score of pairs has a bounded share a patient; but the counts have, and it is computed from them alone.
"""

from __future__ import annotations

import math

import numpy as np

from privacy.errors import NoiseError
from privacy.metrics.estimate import MIN_PATIENTS
from privacy.metrics.release import BINS, edges, require_shares, weights
from privacy.metrics.scores import ScoreEstimate, interval

_SURE = 4.0  # so many standard errors above 0, or there may be no pair to compare


def exact_counts(score: np.ndarray, label: np.ndarray, patient: np.ndarray, intervals: int) -> np.ndarray:
    """(intervals + 1, 2, BINS) float64. They never leave the site.

    Args:
        score: (N, 1) risks in [0, 1].
        label: (N, 1) twice the interval, and 1 more if the event came in it; NaN where not known.
        patient: (N,) whose record each is, 0 .. patients - 1.
        intervals: how many there are.

    Raises:
        NoiseError: a risk is not in [0, 1], or a label none of these.
    """
    known = ~np.isnan(label[:, 0])
    risk, code = score[known, 0], label[known, 0]
    require_shares(risk)
    if not np.isin(code, np.arange(2 * (intervals + 1))).all():
        raise NoiseError("A label names no interval: nothing is released.")
    counts = np.zeros((intervals + 1, 2, BINS))
    cell = np.digitize(risk, edges(BINS)[1:-1])
    np.add.at(counts, (code.astype(int) // 2, code.astype(int) % 2, cell), weights(patient[known]))
    return counts


def estimate(counts: np.ndarray, std: float) -> ScoreEstimate:
    """The C-index (Harrell et al. 1982) over pairs of which one had the event in an earlier interval.

    Pairs within a bin count half. The error of the noise is by the delta method; that of the bins is a bound, since
    the pairs of a bin may be in either order.

    Args:
        counts: (J + 1, 2, B) float64, the sum over sites.
        std: standard deviation of the noise in each cell.
    """
    times, bins = len(counts), counts.shape[2]
    patients, total_error = float(counts.sum()), std * math.sqrt(counts.size)
    if patients < MIN_PATIENTS:
        return ScoreEstimate(patients, total_error, {}, refused="few-patients")
    event, every = counts[:, 1], counts.sum(axis=1)
    later = np.triu(np.ones((times, times)), 1)  # [of the event, of the other]
    above = np.tril(np.ones((bins, bins)), -1) + np.eye(bins) / 2  # [bin of the event, of the other]

    def pairs(won: np.ndarray) -> tuple[float, np.ndarray]:
        """Pairs weighted by bins, and the slope of that in each cell."""
        of_event, of_every = later @ every @ won.T, later.T @ event @ won
        return float((event * of_event).sum()), np.stack([of_every, of_every + of_event], axis=1)

    won, won_slope = pairs(above)
    compared, slope = pairs(np.ones((bins, bins)))
    if compared <= _SURE * std * float(np.linalg.norm(slope)):
        return ScoreEstimate(patients, total_error, {}, refused="noise")
    value = won / compared
    noise_error = std * float(np.linalg.norm(won_slope - value * slope)) / compared
    tied = (np.maximum(event, 0) * (later @ np.maximum(every, 0))).sum() / 2 / compared
    found = {"c_index": interval(value, noise_error, float(tied), 0.0, 1.0)}
    return ScoreEstimate(patients, total_error, found, noise_error=noise_error)
