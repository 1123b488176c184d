"""What tasks have in common that answer questions with yes or no: a class or not, a finding or not, above or not."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from mmmed.data.cells import Problem, canonical, rows_of
from mmmed.tasks.base import Score, Target
from mmmed.tasks.measures import MEASURES, area, area_within, f1_chosen, percent, points

LEAST_PROBABILITY = 1e-12


class AnswersTarget(Target):
    """A task that is scored by the probabilities of yes to its questions, which `evidence` gives."""

    score: ClassVar[Score] = Score("auroc", "AUROC", higher=True)
    also_told: ClassVar[tuple[str, ...]] = ("calibration",)

    def is_probability(self, number: int) -> bool:
        return True

    def shown(self, number: int, value: float) -> str:
        return percent(value)

    def moved(self, number: int, change: float) -> str:
        return points(change)

    def mean(self, values: list[float]) -> float:
        """The score of all questions from that of each, which may be NaN."""
        return float(np.mean(values))

    @abstractmethod
    def likelihoods(self, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(N, K) predictions and labels -> (N,) probabilities of what is true, those of several answers multiplied."""

    def scores(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """AUROC, AUPRC, F1 above 1/2, Brier score, calibration error, mean log loss, and calibration in the large.

        Each but the loss is the mean over questions. Calibration is the observed less the predicted share of yes if
        there is one question, else the mean size of it.
        """
        answers = list(self._answers(*self.evidence(predictions, labels)))
        off = [float(yes.mean() - score.mean()) if len(yes) else float("nan") for score, yes, _ in answers]
        chosen = self.likelihoods(predictions, labels)
        return {
            self.score.name: self.mean([area(score, yes)[0] for score, yes, _ in answers]),
            **{
                name: self.mean([of(score, yes) for score, yes, _ in answers])
                for name, of in MEASURES.items()
            },
            "loss": float(-np.log(np.maximum(chosen, LEAST_PROBABILITY)).mean()),
            "calibration": off[0] if len(off) == 1 else self.mean([abs(one) for one in off]),
        }

    def chosen_on_others(
        self, predictions: np.ndarray, labels: np.ndarray, half: np.ndarray
    ) -> dict[str, float]:
        """F1 at a threshold; the mean over questions."""
        answers = self._answers(*self.evidence(predictions, labels))
        return {"f1_chosen": self.mean([f1_chosen(score, yes, half[rows]) for score, yes, rows in answers])}

    def confidences(self, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """log(p / (1 - p)) of what is true of the record."""
        clipped = np.clip(self.likelihoods(predictions, labels), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        logits: np.ndarray = np.log(clipped / (1 - clipped))
        return logits

    def within_sites(self, predictions: np.ndarray, labels: np.ndarray, site: np.ndarray) -> float:
        """Mean of the sites' areas, each weighted by its pairs; a site with one class has no pair."""
        answers = self._answers(*self.evidence(predictions, labels))
        return self.mean([area_within(score, yes, site[rows]) for score, yes, rows in answers])

    @staticmethod
    def _answers(score: np.ndarray, label: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of each question, where the answer is known: scores, bool who is a yes; and (N,) bool where that is."""
        for number in range(score.shape[1]):
            rows = ~np.isnan(label[:, number])
            yield score[rows, number], label[rows, number] == 1, rows


class ClassesTarget(AnswersTarget):
    """One of K classes. A label is the int64 index of its class, a prediction the K class probabilities.

    Args:
        column: of the labels.
        classes: as a table writes them.
    """

    def __init__(self, column: str, classes: tuple[str, ...]) -> None:
        self._column, self._classes = column, classes

    @property
    def names(self) -> tuple[str, ...]:
        return self._classes

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(f"{self._column} = {name}" for name in self._classes)

    def answer(self, prediction: np.ndarray) -> int:
        return 1 if len(self._classes) == 2 else super().answer(prediction)

    def about(self, number: int) -> str:
        return self.groups[number]

    def labels(self, cells: pd.DataFrame, path: Path, problem: Problem) -> pd.Series:
        """The index of each cell's class, however it is written; others are a problem, and left out."""
        own = cells[self._column]
        index_of = {canonical(name): index for index, name in enumerate(self._classes)}
        indices = own.map(lambda value: index_of.get(canonical(value)))
        bad = indices.isna()
        if bad.any():
            problem(
                f"{path}: column '{own.name}' holds {own[bad].iloc[0]!r} in {rows_of(bad)}, outside "
                f"task.classes {list(self._classes)}. Add it there, correct it, or leave those rows out with data.where"
            )
        return indices[~bad].astype("int64")

    def made_up(self, count: int) -> torch.Tensor:
        return torch.arange(count) % len(self._classes)

    def group_of(self, labels: np.ndarray) -> np.ndarray:
        return labels

    def likelihoods(self, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return predictions[np.arange(len(labels)), labels]

    def guess(self, labels: np.ndarray) -> np.ndarray:
        """(N,) labels of a site -> (K,) float64, the share of each class."""
        return np.bincount(labels, minlength=len(self._classes)) / len(labels)
