"""AUROC over sites with what keeps it honest: the site-only guess, within-site ranking, and intervals.

When sites differ in prevalence, knowing the site alone ranks patients well; a pooled AUROC above that says
little. The within-site AUROC ranks only pairs of the same site.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from mmmed.inference.predict import Predictions

RESAMPLES = 1000
_COVERAGE = (2.5, 97.5)


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % patient-cluster bootstrap interval; NaN where undefined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "-"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Evaluation:
    """AUROC pooled over sites, of the site-only guess, within sites, and at each site."""

    pooled: Interval
    site_only: Interval
    within_site: Interval
    sites: dict[str, float]

    def to_dict(self) -> dict[str, object]:
        """The numbers for JSON; None where undefined."""

        def shown(interval: Interval) -> dict[str, float | None]:
            return {key: _finite(value) for key, value in vars(interval).items()}

        return {
            "auroc": {
                "pooled": shown(self.pooled),
                "site_only": shown(self.site_only),
                "within_site": shown(self.within_site),
                "sites": {name: _finite(value) for name, value in self.sites.items()},
            }
        }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def auroc(score: np.ndarray, label: np.ndarray) -> float:
    """Area under the ROC curve of (N, K) class scores: of class 1 if K = 2, else the mean one-versus-rest.

    The Mann-Whitney statistic with ties counted half (Hanley & McNeil 1982). NaN if a class needed is absent.
    """
    classes = (1,) if score.shape[1] == 2 else tuple(range(score.shape[1]))
    return float(np.mean([_binary(score[:, k], label == k)[0] for k in classes]))


def _binary(score: np.ndarray, positive: np.ndarray) -> tuple[float, int]:
    """AUROC and the number of (positive, negative) pairs it averages over."""
    n_positive = int(positive.sum())
    pairs = n_positive * (len(positive) - n_positive)
    if pairs == 0:
        return float("nan"), 0
    ranks = rankdata(score)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / pairs), pairs


def _within(score: np.ndarray, label: np.ndarray, site: np.ndarray) -> float:
    """Mean over sites of the site's AUROC, weighted by its pairs; sites of one class have none."""
    classes = (1,) if score.shape[1] == 2 else tuple(range(score.shape[1]))
    values = []
    for k in classes:
        parts = [_binary(score[site == s, k], label[site == s] == k) for s in np.unique(site)]
        pairs = sum(count for _, count in parts)
        weighted = sum(value * count for value, count in parts if count)
        values.append(weighted / pairs if pairs else float("nan"))
    return float(np.mean(values))


def evaluate(predictions: Sequence[Predictions], *, seed: int = 0, resamples: int = RESAMPLES) -> Evaluation:
    """Evaluate held-out predictions of several sites.

    Patients, not records, are resampled for the intervals, within their site.
    """
    label = np.concatenate([p.label for p in predictions])
    score = np.concatenate([p.probability for p in predictions])
    guess = np.concatenate([np.tile(p.prevalence, (len(p.label), 1)) for p in predictions])
    site = np.concatenate([np.full(len(p.label), i) for i, p in enumerate(predictions)])
    draws = list(_resample([p.patient for p in predictions], seed, resamples))

    def interval(statistic: Callable[[np.ndarray], float]) -> Interval:
        values = np.array([statistic(rows) for rows in draws])
        values = values[~np.isnan(values)]
        low, high = np.percentile(values, _COVERAGE) if len(values) else (float("nan"),) * 2
        return Interval(statistic(np.arange(len(label))), float(low), float(high))

    return Evaluation(
        pooled=interval(lambda rows: auroc(score[rows], label[rows])),
        site_only=interval(lambda rows: auroc(guess[rows], label[rows])),
        within_site=interval(lambda rows: _within(score[rows], label[rows], site[rows])),
        sites={p.site: auroc(p.probability, p.label) for p in predictions},
    )


def _resample(patients: Sequence[np.ndarray], seed: int, resamples: int) -> list[np.ndarray]:
    """Row indices of each bootstrap draw: patients with replacement, site by site, with all their records."""
    rng = np.random.default_rng(seed)
    offset, rows_of = 0, []
    for one in patients:
        rows_of.append([offset + np.flatnonzero(one == patient) for patient in np.unique(one)])
        offset += len(one)
    draws = []
    for _ in range(resamples):
        parts = [np.empty(0, dtype=np.int64)]
        for groups in rows_of:
            parts += [groups[i] for i in rng.integers(0, len(groups), len(groups))] if groups else []
        draws.append(np.concatenate(parts))
    return draws
