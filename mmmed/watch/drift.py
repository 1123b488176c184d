"""How far what is seen now is from a reference: the population stability index, and intervals of shares.

The index of B cells with shares a of the reference and e of now is sum (e - a) ln(e / a), Jeffreys' divergence (Siddiqi
2006, Credit Risk Scorecards, ch. 10). With n and m studies that come from one and the same distribution it is about
(1/n + 1/m) times a chi-squared variable of B - 1 degrees of freedom (Yurdakul & Naranjo 2020, J. Risk Model Validation
14(4)), so that small numbers alone make it large: what chance explains is told as chance.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

FEWEST = 20  # studies of either period, below which no index is computed
MOVED, SHIFTED = 0.1, 0.25  # the customary bounds
_CELLS = 10
_PRIOR = 0.5  # of each cell, so that an empty one gives no infinity
_SURE = 0.99
_Z95 = 1.959964


@dataclass(frozen=True)
class Stability:
    """How far one number or category has moved.

    Attributes:
        index: the population stability index; None where too few studies have it.
        chance: what it stays below in 99 of 100 comparisons of studies that come from the same.
        reference, now: how many studies of either period have it.
        cells: of each cell its name and the shares of reference and now.
    """

    index: float | None
    chance: float
    reference: int
    now: int
    cells: tuple[tuple[str, float, float], ...] = ()

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.index is None:
            return "too few"
        if self.index < MOVED or self.index <= self.chance:
            return "stable"
        return "moved" if self.index < SHIFTED else "SHIFTED"

    @property
    def where(self) -> str:
        """Of what has moved, the cell that did most to the index; "" of all else."""
        if self.verdict not in ("moved", "SHIFTED"):
            return ""
        name, before, now = max(
            self.cells, key=lambda one: (one[2] - one[1]) * math.log((one[2] + 1e-3) / (one[1] + 1e-3))
        )
        return f"{name}: {before:.0%}, now {now:.0%}"


def stability(reference: Sequence[float | str], now: Sequence[float | str]) -> Stability:
    """The index of a number, by tenths of the reference, or of a category, by its values.

    A value that many studies of the reference share has a cell of its own, so that a number that was constant is seen
    to leave its value on either side. A category that the reference lacks is a cell, too.

    Args:
        reference, now: the values of either period, all numbers (finite) or all text.
    """
    if min(len(reference), len(now)) < FEWEST:
        return Stability(None, math.nan, len(reference), len(now))
    if isinstance(reference[0], str) or isinstance(now[0], str):
        names, counts = _categories([str(one) for one in reference], [str(one) for one in now])
    else:
        names, counts = _tenths(np.array(reference, dtype=float), np.array(now, dtype=float))
    expected, actual = ((one + _PRIOR) / (one.sum() + _PRIOR * len(names)) for one in counts)
    index = float(((actual - expected) * np.log(actual / expected)).sum())
    chance = float(chi2.ppf(_SURE, max(1, len(names) - 1))) * (1 / len(reference) + 1 / len(now))
    shares = (one / one.sum() for one in counts)
    cells = tuple((name, float(a), float(e)) for name, a, e in zip(names, *shares, strict=True))
    return Stability(index, chance, len(reference), len(now), cells)


def _categories(reference: list[str], now: list[str]) -> tuple[list[str], list[np.ndarray]]:
    before, after = Counter(reference), Counter(now)
    names = sorted(before | after)
    return names, [np.array([one[name] for name in names]) for one in (before, after)]


def _tenths(reference: np.ndarray, now: np.ndarray) -> tuple[list[str], list[np.ndarray]]:
    bounds = np.quantile(reference, np.arange(1, _CELLS) / _CELLS, method="lower")
    values, times = np.unique(bounds, return_counts=True)
    alone = values[times > 1]  # a tenth of the reference and more has this very value
    edges = np.union1d(values, np.nextafter(alone, np.inf))
    counts = [
        np.bincount(np.searchsorted(edges, one, "right"), minlength=len(edges) + 1)
        for one in (reference, now)
    ]
    ends = [f"{edge:.4g}" for edge in edges]
    names = [f"below {ends[0]}"]
    for i, end in enumerate(ends):
        after = ends[i + 1] if i + 1 < len(ends) else ""
        single = edges[i] in alone
        names.append(end if single else f"{end} to {after}" if after else f"from {end}")
    held = np.add(*counts) > 0
    return [name for name, kept in zip(names, held, strict=True) if kept], [one[held] for one in counts]


def share(yes: int, total: int) -> tuple[float, float, float]:
    """A share with its 95 % interval (Wilson 1927); NaN of nobody."""
    if total == 0:
        return (math.nan,) * 3
    p, z2 = yes / total, _Z95**2
    middle = (p + z2 / (2 * total)) / (1 + z2 / total)
    reach = _Z95 / (1 + z2 / total) * math.sqrt(p * (1 - p) / total + z2 / (4 * total**2))
    return p, max(0.0, middle - reach), min(1.0, middle + reach)


def difference(yes: int, total: int, yes_before: int, total_before: int) -> tuple[float, float, float]:
    """A share less an earlier one, with its 95 % interval (Newcombe 1998, Stat. Med. 17:873, method 10)."""
    (p, low, high), (q, before_low, before_high) = share(yes, total), share(yes_before, total_before)
    down = math.hypot(p - low, before_high - q)
    up = math.hypot(high - p, q - before_low)
    return p - q, p - q - down, p - q + up
