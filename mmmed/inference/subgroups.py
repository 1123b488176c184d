"""A score in groups of patients (sex, age, site, scanner), with intervals, small groups not told.

A group is told if it has `FEWEST` patients and, of each kind of label that anybody has, `FEWEST_EACH`. Where that hides
a single group of a grouping, the next smallest is hidden with it: else it could be found as what is missing from the
whole. Eleven is what the US Centers for Medicare & Medicaid Services ask of a count that is published.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmmed.tasks.base import Target

GROUPS = ("sex", "age_band", "site", "scanner")
FEWEST, FEWEST_EACH = 11, 5
RULE = (
    f"Groups of fewer than {FEWEST} patients, or of fewer than {FEWEST_EACH} with one of the answers, are not told, "
    "nor the next smallest where only one would be hidden."
)
_RESAMPLES = 200
_BANDS = ((0, "0-17"), (18, "18-39"), (40, "40-59"), (60, "60-79"), (80, "80 and over"))
_OLDEST = 130


@dataclass(frozen=True)
class Group:
    """One group of a grouping.

    Attributes:
        by: the grouping, such as "sex".
        name: of the group; "" of records of which it is not known.
        patients, records: how many; None where the group is not told.
        value: the score in the group, with `low` and `high`, its 95 % interval (bootstrap of patients); NaN where it is
            not told or undefined.
        gap: the score in the group less that of all others, with its interval.
    """

    by: str
    name: str
    patients: int | None = None
    records: int | None = None
    value: tuple[float, float, float] = (math.nan,) * 3
    gap: tuple[float, float, float] = (math.nan,) * 3

    @property
    def told(self) -> bool:
        """Whether it is not suppressed."""
        return self.patients is not None


def groups_json(score: str, groups: Sequence[Group]) -> dict[str, Any]:
    """Groups for a file, without a count: `score` is the title of the score."""

    def interval(one: tuple[float, float, float]) -> dict[str, float | None]:
        names = ("value", "low", "high")
        return {k: v if math.isfinite(v) else None for k, v in zip(names, one, strict=True)}

    told = [
        {
            "by": one.by,
            "name": one.name,
            "told": one.told,
            "score": interval(one.value),
            "gap": interval(one.gap),
        }
        for one in groups
    ]
    return {"version": 1, "score": score, "groups": told}


def age_band(age: object) -> str:
    """A number of years, or its text, as one of five bands; "" for what is no age."""
    try:
        years = float(str(age))
    except ValueError:
        return ""
    if not 0 <= years <= _OLDEST:
        return ""
    return next(name for least, name in reversed(_BANDS) if years >= least)


def subgroups(
    target: Target,
    predictions: np.ndarray,
    labels: np.ndarray,
    patient: np.ndarray,
    groups: Mapping[str, Sequence[str]],
    *,
    seed: int = 0,
) -> list[Group]:
    """The main score in each group of each grouping.

    Args:
        target: the task.
        predictions: (N, K).
        labels: of the same records.
        patient: (N,), whose each is: no patient in two sites.
        groups: by the name of a grouping, (N,) the group of each record, "" if it is not known.
        seed: of the intervals.
    """
    _, owner = np.unique(patient, return_inverse=True)
    draws = _draws(owner, seed)
    one_site = np.zeros(len(labels))

    def score(rows: np.ndarray) -> float:
        """Within one site that all are of it is the main score itself, and none of the others is computed."""
        return target.within_sites(predictions[rows], labels[rows], one_site[rows]) if len(rows) else math.nan

    found = []
    for by, named in groups.items():
        names = np.array(named, dtype=str)
        hidden = suppressed(names, owner, target.members(labels))
        for name in sorted(set(names.tolist())):
            if name in hidden:
                found.append(Group(by, name))
                continue
            inside = names == name
            values = [(score(rows[inside[rows]]), score(rows[~inside[rows]])) for rows in draws]
            value, rest = score(np.flatnonzero(inside)), score(np.flatnonzero(~inside))
            found.append(
                Group(
                    by,
                    name,
                    len(np.unique(owner[inside])),
                    int(inside.sum()),
                    _interval(value, [one for one, _ in values]),
                    _interval(value - rest, [one - other for one, other in values]),
                )
            )
    return found


def suppressed(names: np.ndarray, owner: np.ndarray, members: np.ndarray | None = None) -> set[str]:
    """The groups that are not told, by the rule above.

    Args:
        names: (N,) the group of each record.
        owner: (N,) whose it is.
        members: (N, kinds) bool, what kinds of label each record has; None where labels are not asked about.
    """
    size = {str(name): len(np.unique(owner[names == name])) for name in np.unique(names)}
    hidden = {name for name, patients in size.items() if patients < FEWEST}
    if members is not None:
        for kind in np.flatnonzero(members.any(axis=0)):
            hidden |= {
                name
                for name in size
                if len(np.unique(owner[(names == name) & members[:, kind]])) < FEWEST_EACH
            }
    if len(hidden) == 1 and len(size) > 1:
        hidden.add(min(size.keys() - hidden, key=lambda name: (size[name], name)))
    return hidden


def _draws(owner: np.ndarray, seed: int) -> list[np.ndarray]:
    """Rows of each bootstrap draw: patients with replacement, with all their records."""
    rng = np.random.default_rng(seed)
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner) if len(owner) else np.zeros(0, int)
    starts = np.concatenate([[0], np.cumsum(counts)])
    draws = []
    for _ in range(_RESAMPLES):
        drawn = rng.integers(0, len(counts), len(counts)) if len(counts) else np.zeros(0, int)
        lengths = counts[drawn]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        draws.append(order[np.repeat(starts[drawn], lengths) + within])
    return draws


def _interval(value: float, drawn: list[float]) -> tuple[float, float, float]:
    known = np.array([one for one in drawn if not math.isnan(one)])
    if math.isnan(value) or not len(known):
        return value, math.nan, math.nan
    low, high = np.percentile(known, (2.5, 97.5))
    return value, float(low), float(high)
