"""Classification: cross-entropy, class probabilities, and the area under the ROC curve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from mmmed.data.cells import Problem, canonical, rows_of
from mmmed.tasks import Classification
from mmmed.tasks.answers import AnswersTarget


class ClassTarget(AnswersTarget):
    """One of several classes. A label is the int64 index of its class, a prediction the K class probabilities.

    With two classes the model gives one logit, of the second, else one a class.
    """

    def __init__(self, section: Classification) -> None:
        self._column, self._classes = section.label, section.classes
        self._weights, self._focal = torch.tensor(section.weights), section.focal

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
        return class_indices(cells[self._column], self._classes, path, problem)

    def made_up(self, count: int) -> torch.Tensor:
        return torch.arange(count) % len(self._classes)

    def group_of(self, labels: np.ndarray) -> np.ndarray:
        return labels

    @property
    def outputs(self) -> int:
        return 1 if len(self._classes) == 2 else len(self._classes)

    def losses(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of each record, (R, outputs) and (R,) int64 -> (R,), times the weight of its class.

        Times (1 - p)^focal, p the probability of its class, if that is asked for (Lin et al. 2017, arXiv 1708.02002).
        """
        if self.outputs == 1:
            target = labels.to(outputs.dtype)
            loss = F.binary_cross_entropy_with_logits(outputs[:, 0], target, reduction="none")
        else:
            loss = F.cross_entropy(outputs, labels, reduction="none")
        if self._focal:
            loss = loss * (1 - torch.exp(-loss)).clamp(min=1e-6) ** self._focal  # 0 ** focal has no slope
        if len(self._weights):
            loss = loss * self._weights.to(loss)[labels]
        return loss

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        if self.outputs == 1:
            positive = torch.sigmoid(outputs)
            return torch.cat([1 - positive, positive], dim=1)
        return torch.softmax(outputs, dim=1)

    def evidence(self, predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each class against the rest; of two the second alone."""
        classes = np.array([1]) if len(self._classes) == 2 else np.arange(len(self._classes))
        return predictions[:, classes], (labels[:, None] == classes).astype(np.float64)

    def likelihoods(self, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return predictions[np.arange(len(labels)), labels]

    def guess(self, labels: np.ndarray) -> np.ndarray:
        """(N,) labels of a site -> (K,) float64, the share of each class."""
        return np.bincount(labels, minlength=len(self._classes)) / len(labels)


def class_indices(cells: pd.Series, classes: tuple[str, ...], path: Path, problem: Problem) -> pd.Series:
    """The int64 index among `task.classes` of each cell, however it is written; others are a problem, and left out."""
    index_of = {canonical(name): index for index, name in enumerate(classes)}
    indices = cells.map(lambda value: index_of.get(canonical(value)))
    bad = indices.isna()
    if bad.any():
        problem(
            f"{path}: column '{cells.name}' holds {cells[bad].iloc[0]!r} in {rows_of(bad)}, outside "
            f"task.classes {list(classes)}. Add it there, correct it, or leave those rows out with data.where"
        )
    return indices[~bad].astype("int64")
