"""Classification: cross-entropy, class probabilities, and the area under the ROC curve."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from mmmed.data.cells import Problem, canonical, rows_of
from mmmed.tasks import Classification
from mmmed.tasks.base import Score, Target

_LEAST_PROBABILITY = 1e-12


class ClassTarget(Target):
    """One of several classes. A label is the int64 index of its class, a prediction the K class probabilities.

    With two classes the model gives one logit, of the second, else one a class.
    """

    score: ClassVar[Score] = Score("auroc", "AUROC", higher=True)
    also_told: ClassVar[tuple[str, ...]] = ("calibration",)

    def __init__(self, section: Classification) -> None:
        self._column, self._classes = section.label, section.classes

    @property
    def words(self) -> str:
        return f"{self._column}: {', '.join(self._classes)}"

    @property
    def names(self) -> tuple[str, ...]:
        return self._classes

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(f"{self._column} = {name}" for name in self._classes)

    def labels(self, cells: pd.DataFrame, path: Path, problem: Problem) -> pd.Series:
        values = cells[self._column]
        index_of = {canonical(name): index for index, name in enumerate(self._classes)}
        indices = values.map(lambda value: index_of.get(canonical(value)))
        bad = indices.isna()
        if bad.any():
            problem(
                f"{path}: column '{self._column}' holds {values[bad].iloc[0]!r} in {rows_of(bad)}, outside "
                f"task.classes {list(self._classes)}. Add it there, correct it, or leave those rows out with data.where"
            )
        return indices[~bad].astype("int64")

    def made_up(self, count: int) -> torch.Tensor:
        return torch.arange(count) % len(self._classes)

    def group_of(self, labels: np.ndarray) -> np.ndarray:
        return labels

    @property
    def outputs(self) -> int:
        return 1 if len(self._classes) == 2 else len(self._classes)

    def losses(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of each record: (R, outputs) and (R,) int64 -> (R,)."""
        if self.outputs == 1:
            target = labels.to(outputs.dtype)
            return F.binary_cross_entropy_with_logits(outputs[:, 0], target, reduction="none")
        return F.cross_entropy(outputs, labels, reduction="none")

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        if self.outputs == 1:
            positive = torch.sigmoid(outputs)
            return torch.cat([1 - positive, positive], dim=1)
        return torch.softmax(outputs, dim=1)

    def scores(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Area under the ROC curve, mean log loss, and calibration in the large.

        Calibration is the observed less the predicted share of class 1 if K = 2, else the mean size of it.
        """
        chosen = predictions[np.arange(len(labels)), labels]
        observed = np.bincount(labels, minlength=len(self._classes)) / len(labels)
        off = observed - predictions.mean(axis=0)
        return {
            self.score.name: auroc(predictions, labels),
            "loss": float(-np.log(np.maximum(chosen, _LEAST_PROBABILITY)).mean()),
            "calibration": float(off[1] if len(off) == 2 else np.abs(off).mean()),
        }

    def guess(self, labels: np.ndarray) -> np.ndarray:
        """(N,) labels of a site -> (K,) float64, the share of each class."""
        return np.bincount(labels, minlength=len(self._classes)) / len(labels)

    def confidences(self, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """log(p / (1 - p)) of the record's own class."""
        chosen = predictions[np.arange(len(labels)), labels]
        clipped = np.clip(chosen, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
        logits: np.ndarray = np.log(clipped / (1 - clipped))
        return logits

    def within_sites(self, predictions: np.ndarray, labels: np.ndarray, site: np.ndarray) -> float:
        """Mean of the sites' areas, each weighted by its pairs; a site with one class has no pair."""
        values = []
        for score, positive in _one_versus_rest(predictions, labels):
            parts = [_area(score[site == s], positive[site == s]) for s in np.unique(site)]
            pairs = sum(count for _, count in parts)
            weighted = sum(value * count for value, count in parts if count)
            values.append(weighted / pairs if pairs else float("nan"))
        return float(np.mean(values))


def auroc(probability: np.ndarray, label: np.ndarray) -> float:
    """Area under the ROC curve of (N, K) class scores: of class 1 if K = 2, else the mean one-versus-rest.

    The Mann-Whitney statistic with ties counted half (Hanley & McNeil 1982). NaN if a class needed is absent.
    """
    return float(np.mean([_area(*one)[0] for one in _one_versus_rest(probability, label)]))


def _one_versus_rest(probability: np.ndarray, label: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each class (of two, the second alone): the (N,) score, and (N,) bool, who is of the class."""
    classes = (1,) if probability.shape[1] == 2 else range(probability.shape[1])
    for k in classes:
        yield probability[:, k], label == k


def _area(score: np.ndarray, positive: np.ndarray) -> tuple[float, int]:
    """The area under the ROC curve, and the number of (positive, negative) pairs that it averages over."""
    n_positive = int(positive.sum())
    pairs = n_positive * (len(positive) - n_positive)
    if pairs == 0:
        return float("nan"), 0
    if np.isnan(score).any():
        return float("nan"), pairs
    own, others = score[positive], np.sort(score[~positive])
    below = np.searchsorted(others, own, "left").sum() + np.searchsorted(others, own, "right").sum()
    return float(below / 2 / pairs), pairs
