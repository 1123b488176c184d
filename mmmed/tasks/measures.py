"""How good predictions of yes and no are. Each takes (N,) probabilities of yes and (N,) bool, who is one.

scikit-learn has most of them; here they take microseconds, since an interval computes each a thousand times. Tests
compare the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Measure = Callable[[np.ndarray, np.ndarray], float]
_BINS = 10


def area(score: np.ndarray, positive: np.ndarray) -> tuple[float, int]:
    """The area under the ROC curve, and the number of (positive, negative) pairs that it averages over.

    The Mann-Whitney statistic with ties counted half (Hanley & McNeil 1982). NaN without a pair.
    """
    n_positive = int(positive.sum())
    pairs = n_positive * (len(positive) - n_positive)
    if pairs == 0:
        return float("nan"), 0
    if np.isnan(score).any():
        return float("nan"), pairs
    own, others = score[positive], np.sort(score[~positive])
    below = np.searchsorted(others, own, "left").sum() + np.searchsorted(others, own, "right").sum()
    return float(below / 2 / pairs), pairs


def area_within(score: np.ndarray, positive: np.ndarray, site: np.ndarray) -> float:
    """Mean of the sites' areas, each weighted by its pairs; NaN if no site, (N,), has one."""
    parts = [area(score[site == one], positive[site == one]) for one in np.unique(site)]
    pairs = sum(count for _, count in parts)
    weighted = sum(value * count for value, count in parts if count)
    return weighted / pairs if pairs else float("nan")


def average_precision(score: np.ndarray, positive: np.ndarray) -> float:
    """The area under the precision-recall curve as a step function (AUPRC); NaN without a positive."""
    if not positive.any() or np.isnan(score).any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    found = np.cumsum(positive[order])
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)  # of each run of equal scores
    precision, recall = found[last] / (last + 1), found[last] / found[-1]
    return float(precision @ np.diff(recall, prepend=0.0))


def f1(score: np.ndarray, positive: np.ndarray) -> float:
    """Harmonic mean of precision and recall where yes is a probability above 1/2; NaN without a yes in either."""
    chosen = score > 0.5
    either = int(chosen.sum() + positive.sum())
    return float(2 * (chosen & positive).sum() / either) if either else float("nan")


def f1_chosen(score: np.ndarray, positive: np.ndarray, half: np.ndarray) -> float:
    """F1 where yes is a probability above a threshold that was chosen on others: cross-fitting with two halves.

    Args:
        score: (N,).
        positive: (N,) bool.
        half: (N,) bool, which half each is in. For either the threshold is that of the largest F1 in the other.

    Returns:
        The F1 of both halves together; NaN where one of them has no yes.
    """
    chosen = np.zeros(len(score), dtype=bool)
    for own in (half, ~half):
        if not positive[~own].any() or np.isnan(score).any():
            return float("nan")
        chosen[own] = score[own] >= _best_threshold(score[~own], positive[~own])
    return float(2 * (chosen & positive).sum() / (chosen.sum() + positive.sum()))


def _best_threshold(score: np.ndarray, positive: np.ndarray) -> float:
    """The lowest score that is a yes where F1 is largest."""
    order = np.argsort(-score, kind="stable")
    found = np.cumsum(positive[order])
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)  # of each run of equal scores
    best = last[np.argmax(2 * found[last] / (last + 1 + found[-1]))]
    return float(score[order][best])


def brier(score: np.ndarray, positive: np.ndarray) -> float:
    """Mean squared difference of probability and truth (Brier 1950)."""
    return float(np.square(score - positive).mean()) if len(score) else float("nan")


def calibration_error(score: np.ndarray, positive: np.ndarray) -> float:
    """Expected calibration error over ten equal bins of the score (Guo et al. 2017, arXiv 1706.04599)."""
    if not len(score) or np.isnan(score).any():
        return float("nan")
    cell = np.minimum((score * _BINS).astype(int), _BINS - 1)
    off = np.bincount(cell, weights=score - positive, minlength=_BINS)
    return float(np.abs(off).sum() / len(score))


MEASURES: Mapping[str, Measure] = {
    "auprc": average_precision,
    "f1": f1,
    "brier": brier,
    "ece": calibration_error,
}


def defined_mean(values: list[float]) -> float:
    """The mean of those that are not NaN; NaN if all are."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def percent(probability: float) -> str:
    """A probability as a person reads it."""
    return f"{100 * probability:.0f} %" if 0.005 <= probability <= 0.995 else f"{100 * probability:.1f} %"


def points(change: float) -> str:
    """A change of a probability, signed."""
    return f"{100 * change:+.1f} points"
