"""What the code of a task says, from the cells of a table to the scores of a prediction.

In the shapes N are records of one or more sites, R those of a batch, K the numbers that are predicted for a record.
A label is one number, (N,), or several, (N, L); one that is not known is NaN.
Nothing is averaged over a batch: each patient's gradient stays its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch

from mmmed.data.cells import Problem


class Score(NamedTuple):
    """A number that says how good predictions are.

    Attributes:
        name: as policies, run folders and reports hold it.
        title: as a person reads it.
        higher: whether more is better.
    """

    name: str
    title: str
    higher: bool


class Target(ABC):
    """A task; it is made from its section.

    Attributes:
        score: the main score, by which models are compared.
        also_told: other names in `scores` that a site's policy can let out.
    """

    score: ClassVar[Score]
    also_told: ClassVar[tuple[str, ...]] = ()

    @property
    def told(self) -> tuple[str, ...]:
        """Names of the scores that a site's policy may let out, at least one. Their values lie in [-1, 1]."""
        return (self.score.name, *self.also_told)

    # ---------------------------------------------------------------- words

    @property
    @abstractmethod
    def words(self) -> str:
        """What is predicted, in words, for a report."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names of the K numbers of a prediction."""

    def as_table(self, predictions: np.ndarray) -> dict[str, np.ndarray]:
        """(N, K) predictions -> (N,) columns by name, as people read them; here the K numbers by `names`."""
        return dict(zip(self.names, predictions.T, strict=True))

    @property
    @abstractmethod
    def groups(self) -> tuple[str, ...]:
        """Kinds of label, in words: of each, enough patients are needed to learn, to test and to tell a result."""

    @property
    def questions(self) -> tuple[str, ...]:
        """What each of the Q numbers of `group_of` is about, in words."""
        return ("the label",)

    def answer(self, prediction: np.ndarray) -> int:
        """Which of the K numbers of a prediction is told first: the largest, but of two classes the second."""
        return int(prediction.argmax())

    def about(self, number: int) -> str:
        """What number `number` of a prediction is about, as a person says it."""
        return self.names[number]

    def is_probability(self, number: int) -> bool:
        """Whether it is a probability; else a number in a unit of its own."""
        return False

    def said(self, number: int, value: float) -> str:
        """It with its value."""
        return f"{self.about(number)}: {self.shown(number, value)}"

    def shown(self, number: int, value: float) -> str:
        """Such a value, with its unit."""
        return f"{value:.3g}"

    def moved(self, number: int, change: float) -> str:
        """A change of such a value, signed."""
        return f"{change:+.2g}"

    # ---------------------------------------------------------------- labels

    def unlabelled(self, empty: pd.DataFrame) -> pd.Series:
        """Which rows have no label, by which cells of the section's columns are empty; here those with any."""
        return empty.any(axis=1)

    @abstractmethod
    def labels(self, cells: pd.DataFrame, path: Path, problem: Problem) -> pd.Series | pd.DataFrame:
        """Read the labels.

        Args:
            cells: the columns of the section, of rows that are not `unlabelled`; the index is the row in the table,
                from 0.
            path: of the table.
            problem: told of rows that hold no valid label; it raises, or they are left out.

        Returns:
            One number a row, int64 or float32, or a frame of L of them, with the index of the rows that are kept.
        """

    @abstractmethod
    def made_up(self, count: int) -> torch.Tensor:
        """(count,) or (count, L) labels as `labels` may give them, of every group if there are enough."""

    @abstractmethod
    def group_of(self, labels: np.ndarray) -> np.ndarray:
        """Labels -> int64 of `groups`: (N,), where each belongs, or (N, Q) if it answers Q questions, -1 if unknown."""

    def members(self, labels: np.ndarray) -> np.ndarray:
        """Labels -> (N, groups) bool, which groups each belongs to."""
        groups = self.group_of(labels).reshape(len(labels), len(self.questions))
        return np.stack([(groups == number).any(axis=1) for number in range(len(self.groups))], axis=1)

    # ---------------------------------------------------------------- model

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Numbers that the model's head gives for a record."""

    @abstractmethod
    def losses(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(R, outputs) outputs and labels -> (R,) losses, each of its record alone; what is unknown adds nothing."""

    @abstractmethod
    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        """(R, outputs) outputs -> (R, K) predictions, each of its record alone."""

    # ---------------------------------------------------------------- results

    @abstractmethod
    def scores(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """(N, K) predictions and labels, N at least 1 -> all scores by name; NaN where one is undefined."""

    def chosen_on_others(
        self, predictions: np.ndarray, labels: np.ndarray, half: np.ndarray
    ) -> dict[str, float]:
        """Scores that need a choice, made for the records of each half on those of the other; here none.

        Args:
            predictions: (N, K).
            labels: of the same records.
            half: (N,) bool; all records of a patient are in one.
        """
        return {}

    def evidence(self, predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the task's private release (`mmmed.tasks.Task.release`) is made from, each row of its record alone.

        Args:
            predictions: (N, K), finite.
            labels: of the same records.

        Returns:
            What is predicted, (N, S) float64 in [0, 1], and what is true, (N, S) float64, NaN where that is unknown. Of
            "tables": probabilities of yes, and 1 or 0. Of "errors": shares of the range. Of "concordance": the
            risk, and twice the interval, and 1 more for an event. Of "agreement": how far it agrees, and 1.
        """
        raise NotImplementedError(f"{type(self).__name__} has no private release of results")

    def corrected(self, prediction: np.ndarray, score: np.ndarray) -> np.ndarray:
        """(K,) a prediction whose `evidence` is (S,) `score` instead; here of tasks that release "tables"."""
        raise NotImplementedError(f"{type(self).__name__} has no probabilities to correct")

    def possible(self, answers: np.ndarray) -> tuple[str, ...]:
        """In words, what is possible of a record if no and yes, (S, 2) bool, are possible answers to its questions.

        A true answer is left out as rarely as that of any one question if each is left out `together` times as rarely.
        """
        raise NotImplementedError(f"{type(self).__name__} answers no questions")

    @property
    def together(self) -> int:
        """How many questions' answers must all be possible for what is true to be among the `possible`."""
        return 1

    @abstractmethod
    def guess(self, labels: np.ndarray) -> np.ndarray:
        """Labels of a site -> (K,) float64, the prediction of one who knows only these labels."""

    @abstractmethod
    def confidences(self, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(N, K) predictions and labels -> (N,), how well each record is predicted, about normal over models.

        A membership attack compares them (Carlini et al. 2022, arXiv 2112.03570).
        """

    def within_sites(self, predictions: np.ndarray, labels: np.ndarray, site: np.ndarray) -> float:
        """The main score within sites, to which knowing a record's site adds nothing. NaN if it is undefined.

        Here the mean over sites, weighted by their records.

        Args:
            predictions: (N, K).
            labels: of the same records.
            site: (N,) whose record each is.
        """
        rows = [site == one for one in np.unique(site)]
        values = np.array([self.scores(predictions[own], labels[own])[self.score.name] for own in rows])
        weights = np.array([own.sum() for own in rows]) * ~np.isnan(values)
        return float(np.nansum(values * weights) / weights.sum()) if weights.any() else float("nan")
