"""The scores over sites with what keeps them honest: intervals, the site-only guess, and the score within sites.

When sites differ in their labels, knowing the site alone predicts patients well; a pooled score above that says
little. To the score within sites, knowing the site adds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mmmed.inference.predict import Predictions
from mmmed.tasks.base import Score, Target

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
    """The main score pooled over sites, of the site-only guess, within sites, and at each site; the others pooled."""

    score: Score
    pooled: Interval
    site_only: Interval
    within_site: Interval
    sites: dict[str, float]
    others: dict[str, Interval]

    def to_dict(self) -> dict[str, object]:
        """The numbers for JSON; None where undefined."""

        def shown(interval: Interval) -> dict[str, float | None]:
            return {key: _finite(value) for key, value in vars(interval).items()}

        return {
            self.score.name: {
                "pooled": shown(self.pooled),
                "site_only": shown(self.site_only),
                "within_site": shown(self.within_site),
                "sites": {name: _finite(value) for name, value in self.sites.items()},
            },
            **{name: {"pooled": shown(interval)} for name, interval in self.others.items()},
        }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def evaluate(
    target: Target, predictions: Sequence[Predictions], *, seed: int = 0, resamples: int = RESAMPLES
) -> Evaluation:
    """Evaluate held-out predictions of several sites.

    Args:
        target: the task.
        predictions: of each site, one or more.
        seed: of the intervals.
        resamples: for the intervals. Patients, not records, are resampled, within their site.
    """
    label = np.concatenate([p.label for p in predictions])
    predicted = np.concatenate([p.prediction for p in predictions])
    guess = np.concatenate([np.tile(p.guess, (len(p.label), 1)) for p in predictions])
    site = np.concatenate([np.full(len(p.label), i) for i, p in enumerate(predictions)])
    half = np.concatenate([p.patient % 2 == 0 for p in predictions])  # whoever a patient is has no part in it
    draws = list(_resample([p.patient for p in predictions], seed, resamples))

    def intervals(statistics: Callable[[np.ndarray], dict[str, float]]) -> dict[str, Interval]:
        drawn = [statistics(rows) for rows in draws]
        found = {}
        for name, value in statistics(np.arange(len(label))).items():
            values = np.array([one[name] for one in drawn])
            values = values[~np.isnan(values)]
            low, high = np.percentile(values, _COVERAGE) if len(values) else (float("nan"),) * 2
            found[name] = Interval(value, float(low), float(high))
        return found

    main = target.score.name

    def main_score(values: np.ndarray, sites: np.ndarray) -> Interval:
        """Within `sites` (N,); within one that all are of, it is the score itself."""
        return intervals(lambda rows: {main: target.within_sites(values[rows], label[rows], sites[rows])})[
            main
        ]

    pooled = intervals(
        lambda rows: (
            target.scores(predicted[rows], label[rows])
            | target.chosen_on_others(predicted[rows], label[rows], half[rows])
        )
    )
    return Evaluation(
        score=target.score,
        pooled=pooled.pop(main),
        site_only=main_score(guess, np.zeros_like(site)),
        within_site=main_score(predicted, site),
        sites={p.site: target.scores(p.prediction, p.label)[main] for p in predictions},
        others=pooled,
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
