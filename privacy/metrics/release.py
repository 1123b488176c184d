"""How many held-out patients have which label and score: counts with Gaussian noise.

With two classes one table, else one a class against the rest. A table has a row of those who are not of the class
and a row of those who are, over `BINS` bins of the score, equal in its log-odds: a model that has learnt little, or of
something rare, keeps its scores close together and far from 1/2. The bins are public; no data place them.

A patient counts 1 in each table, spread evenly over the patient's records: adding or removing a patient changes each
table by a vector of sum 1 and so of Euclidean length 1 at most, and all T tables together by sqrt(T) at most. Noise of
standard deviation z sqrt(T) in every cell is then the Gaussian mechanism of noise multiplier z (Dwork and Roth 2014,
theorem A.1, accounted by PLD).
"""

from __future__ import annotations

import math

import numpy as np
import torch

from privacy.accounting import DpSgdEvent
from privacy.errors import NoiseError
from privacy.noise import PrivateRandom, noise_std

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


def tables_shape(classes: int, bins: int = BINS) -> tuple[int, int, int]:
    """(T, 2, bins): T is 1 for two classes, else the number of classes."""
    return (1 if classes == 2 else classes, 2, bins)


def sensitivity(tables: int) -> float:
    """The most, in Euclidean length, by which one patient changes all tables together."""
    return math.sqrt(tables)


def exact_tables(score: np.ndarray, label: np.ndarray, patient: np.ndarray) -> np.ndarray:
    """The tables without noise. They never leave the site.

    Args:
        score: (N, K) class probabilities in [0, 1].
        label: (N,) class indices.
        patient: (N,) whose record each is, 0 .. patients - 1.

    Returns:
        (T, 2, BINS) float64 of `tables_shape`.

    Raises:
        NoiseError: a score is not in [0, 1].
    """
    if not ((score >= 0) & (score <= 1)).all():  # NaN too: which bin it fell into would be anybody's guess
        raise NoiseError("A score is not in [0, 1]: the model is broken, and nothing is released.")
    shape = tables_shape(score.shape[1])
    tables = np.zeros(shape)
    weight = 1.0 / np.bincount(patient)[patient]
    inner = edges(BINS)[1:-1]
    for number in range(shape[0]):
        column = 1 if shape[0] == 1 else number
        cell = np.digitize(score[:, column], inner)
        np.add.at(tables[number], ((label == column).astype(int), cell), weight)
    return tables


def private_tables(
    score: np.ndarray, label: np.ndarray, patient: np.ndarray, noise_multiplier: float
) -> np.ndarray:
    """`exact_tables` with noise: what may leave once the ledger is charged with `evaluation_event`.

    Args:
        score: (N, K) class probabilities in [0, 1].
        label: (N,) class indices.
        patient: (N,) the patient of each record, 0 .. patients - 1.
        noise_multiplier: z, noise standard deviation over the sensitivity sqrt(T), above 0.

    Returns:
        (T, 2, BINS) float64 of `tables_shape`; counts may be negative.

    Raises:
        NoiseError: a score is not in [0, 1], or the noise cannot be drawn.
    """
    tables = torch.from_numpy(exact_tables(score, label, patient))
    std = noise_std(noise_multiplier, sensitivity(len(tables)), tables.numel())
    PrivateRandom().add_gaussian_(tables, std)
    return tables.numpy()
