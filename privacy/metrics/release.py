"""How many held-out patients have which label and score: counts with Gaussian noise.

One table a question with two answers: with two classes one, else one a class against the rest; one a finding, or one
a threshold of ordered classes. A table has a row of those to whom the answer is no and a row of those to whom it is
yes, over `BINS` bins of the score, equal in its log-odds: a model that has learnt little, or of something rare, keeps
its scores close together and far from 1/2. The bins are public; no data place them.

A patient counts 1 in each table, spread evenly over the patient's records of which the answer is known, or 0 if there
is none: adding or removing a patient changes each table by a vector of sum 1 at most and so of Euclidean length 1 at
most, and all T tables together by sqrt(T) at most. Noise of standard deviation z sqrt(T) in every cell is then the
Gaussian mechanism of noise multiplier z (Dwork and Roth 2014, theorem A.1, accounted by PLD).
"""

from __future__ import annotations

import math

import numpy as np

from privacy.accounting import DpSgdEvent
from privacy.errors import NoiseError

BINS = 20  # more tell scores apart that crowd, and let more noise in
EQUAL_BINS = 10  # of older software, equal in the score itself: such reports are still computed again
_LOG_ODDS = 3.0  # beyond it on either side is one bin: scores below 0.047, above 0.953


def evaluation_event(noise_multiplier: float) -> DpSgdEvent:
    """One release of the tables, of every held-out patient."""
    return DpSgdEvent(noise_multiplier, 1.0, 1)


def edges(bins: int) -> np.ndarray:
    """(bins + 1,) float64: where the bins of the score begin and end, from 0 to 1."""
    if bins == EQUAL_BINS:
        return np.linspace(0.0, 1.0, bins + 1)
    inner = 1 / (1 + np.exp(-np.linspace(-_LOG_ODDS, _LOG_ODDS, bins - 1)))
    return np.concatenate([[0.0], inner, [1.0]])


def sensitivity(tables: int) -> float:
    """The most, in Euclidean length, by which one patient changes all tables together."""
    return math.sqrt(tables)


def exact_tables(score: np.ndarray, label: np.ndarray, patient: np.ndarray) -> np.ndarray:
    """The tables without noise. They never leave the site.

    Args:
        score: (N, T) probabilities of "yes", in [0, 1].
        label: (N, T) 1 for yes, 0 for no, NaN where it is not known.
        patient: (N,) whose record each is, 0 .. patients - 1.

    Returns:
        (T, 2, BINS) float64.

    Raises:
        NoiseError: a score is not in [0, 1], or a label none of these.
    """
    require_shares(score)
    known = ~np.isnan(label)
    if not np.isin(label[known], (0, 1)).all():
        raise NoiseError("A label is neither 0 nor 1 nor unknown: nothing is released.")
    tables = np.zeros((score.shape[1], 2, BINS))
    inner = edges(BINS)[1:-1]
    for number, table in enumerate(tables):
        rows = known[:, number]
        cell = np.digitize(score[rows, number], inner)
        np.add.at(table, (label[rows, number].astype(int), cell), weights(patient[rows]))
    return tables


def require_shares(values: np.ndarray) -> None:
    """Raise `NoiseError` unless all values are in [0, 1]. NaN is not: its bin would be anybody's guess."""
    if not ((values >= 0) & (values <= 1)).all():
        raise NoiseError("A score is not in [0, 1]: the model is broken, and nothing is released.")


def weights(patient: np.ndarray) -> np.ndarray:
    """(N,) the patient of each record -> (N,) float64, of which each patient's add up to 1."""
    weight: np.ndarray = 1.0 / np.bincount(patient)[patient] if len(patient) else np.zeros(0)
    return weight
