"""A time to an event, seen or not seen: hazards of intervals between public borders."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from mmmed.data.cells import Problem, canonical, rows_of, text_of
from mmmed.tasks import Survival
from mmmed.tasks.answers import LEAST_PROBABILITY
from mmmed.tasks.base import Score, Target
from mmmed.tasks.measures import percent, points


class SurvivalTarget(Target):
    """A time of an event, or until which there was none, in J intervals that end at the borders.

    A label is the int64 number 2 j + e: the time lies in interval j of 0 .. J - 1, before border j and not before the
    one ahead of it; e is 1 if the event came then, 0 if observation ended. From the last border on, j is J and e is 0.
    Who left observation in an interval is known to have passed those before it. The model gives the log-odds of
    the J hazards; a prediction is the J probabilities that the event has not come by each border. The loss is the
    negative log-likelihood of discrete hazards (Gensheimer & Narasimhan 2019, PeerJ 7:e6257), of each record alone.
    """

    score: ClassVar[Score] = Score("c_index", "C-index", higher=True)

    def __init__(self, section: Survival) -> None:
        self._time, self._event, self._borders = section.time, section.event, np.array(section.borders)

    @property
    def words(self) -> str:
        borders = ", ".join(f"{border:g}" for border in self._borders)
        return f"time until {self._event} = 1, from {self._time}, by {borders}"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"no {self._event} by {border:g}" for border in self._borders)

    def is_probability(self, number: int) -> bool:
        return True

    def shown(self, number: int, value: float) -> str:
        return percent(value)

    def moved(self, number: int, change: float) -> str:
        return points(change)

    @property
    def groups(self) -> tuple[str, ...]:
        last = f"{self._borders[-1]:g}"
        return f"no {self._event} seen by {last}", f"{self._event} = 1 by {last}"

    def labels(self, cells: pd.DataFrame, path: Path, problem: Problem) -> pd.Series:
        time = pd.to_numeric(cells[self._time].map(text_of), errors="coerce").astype("float64")
        event = (
            cells[self._event].map(lambda cell: {"0": 0.0, "1": 1.0}.get(canonical(cell))).astype("float64")
        )
        no_time, no_event = ~(time.ge(0) & np.isfinite(time)), event.isna()
        for column, bad, expected in (
            (self._time, no_time, "a time of 0 or more, as a number"),
            (self._event, no_event, "1 if the event came at that time, 0 if observation ended"),
        ):
            if bad.any():
                problem(
                    f"{path}: column '{column}' holds {cells[column][bad].iloc[0]!r} in {rows_of(bad)}. Expected "
                    f"{expected}"
                )
        good = ~(no_time | no_event)
        interval = pd.Series(np.searchsorted(self._borders, time[good], side="right"), index=time.index[good])
        seen = event[good].astype("int64") * (interval < len(self._borders))
        return (2 * interval + seen).astype("int64")

    def made_up(self, count: int) -> torch.Tensor:
        """All intervals, alternately with the event; nobody leaves in the first, who would say nothing."""
        return torch.arange(count) % (2 * len(self._borders)) + 1

    def group_of(self, labels: np.ndarray) -> np.ndarray:
        group: np.ndarray = labels % 2
        return group

    @property
    def outputs(self) -> int:
        return len(self._borders)

    def losses(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(R, J) log-odds of hazards and (R,) int64 -> (R,) negative log-likelihoods."""
        interval = labels[:, None] // 2
        numbers = torch.arange(self.outputs, device=labels.device)
        here = (numbers == interval) & (labels[:, None] % 2 == 1)
        passed = numbers < interval
        return (F.softplus(outputs) * passed + F.softplus(-outputs) * here).sum(1)

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        return torch.exp(-F.softplus(outputs).cumsum(1))

    def scores(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """C-index (Harrell et al. 1982) of the risk, and mean negative log-likelihood."""
        return {
            self.score.name: _concordance(_risk(predictions), labels)[0],
            "loss": float(-np.log(self._likelihoods(predictions, labels)).mean()),
        }

    def evidence(self, predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The risk, and the label."""
        return np.clip(_risk(predictions), 0, 1)[:, None], labels[:, None].astype(np.float64)

    def guess(self, labels: np.ndarray) -> np.ndarray:
        """The product-limit estimate at the borders (Kaplan & Meier 1958)."""
        numbers = np.arange(self.outputs)
        at_risk = (labels[:, None] // 2 > numbers).sum(0) + (labels[:, None] == 2 * numbers + 1).sum(0)
        events = (labels[:, None] == 2 * numbers + 1).sum(0)
        curve: np.ndarray = np.cumprod(1 - events / np.maximum(at_risk, 1))
        return curve

    def confidences(self, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """log(p / (1 - p)) of the record's likelihood p."""
        likelihood = np.minimum(self._likelihoods(predictions, labels), 1 - LEAST_PROBABILITY)
        logits: np.ndarray = np.log(likelihood / (1 - likelihood))
        return logits

    def within_sites(self, predictions: np.ndarray, labels: np.ndarray, site: np.ndarray) -> float:
        """The C-index over pairs of the same site."""
        risk = _risk(predictions)
        parts = [_concordance(risk[site == one], labels[site == one]) for one in np.unique(site)]
        pairs = sum(count for _, count in parts)
        weighted = sum(value * count for value, count in parts if count)
        return weighted / pairs if pairs else float("nan")

    def _likelihoods(self, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(N,) of what was seen: that nothing came by the last border passed, and then, perhaps, the event."""
        curve = np.concatenate([np.ones((len(labels), 1)), predictions], axis=1)
        rows, interval = np.arange(len(labels)), labels // 2
        before = curve[rows, interval]
        after = curve[rows, np.minimum(interval + 1, self.outputs)]
        likelihood: np.ndarray = np.maximum(np.where(labels % 2, before - after, before), LEAST_PROBABILITY)
        return likelihood


def _risk(predictions: np.ndarray) -> np.ndarray:
    """(N, J) probabilities that nothing came by the borders -> (N,) in [0, 1]: less the mean of them."""
    risk: np.ndarray = 1 - predictions.mean(axis=1)
    return risk


def _concordance(risk: np.ndarray, labels: np.ndarray) -> tuple[float, int]:
    """Share of pairs, one with the event in an interval and one who passed it, in which the first has more risk.

    Equal risks count half. Also the number of pairs; NaN if there is none.
    """
    won, pairs = 0.0, 0
    if np.isnan(risk).any():
        return float("nan"), 0
    for interval in np.unique(labels[labels % 2 == 1]) // 2:
        own, later = risk[labels == 2 * interval + 1], np.sort(risk[labels // 2 > interval])
        below = np.searchsorted(later, own, "left").sum() + np.searchsorted(later, own, "right").sum()
        won, pairs = won + below / 2, pairs + len(own) * len(later)
    return (float(won / pairs), pairs) if pairs else (float("nan"), 0)
