"""A toy task, as somebody outside the project would write it: a number between two bounds, by its squared error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
import torch

from mmmed.data.cells import Problem, rows_of, text_of
from mmmed.tasks import Task
from mmmed.tasks.base import Score, Target


class Bounded(Task):
    """A number between two bounds."""

    implementation: ClassVar[str] = "tests.contracts.bounded:BoundedTarget"

    kind: Literal["bounded"] = "bounded"
    column: str = "age"
    low: float = 0.0
    high: float = 100.0

    @property
    def columns(self) -> Mapping[str, str]:
        return {"column": self.column}


class BoundedTarget(Target):
    score: ClassVar[Score] = Score("mae", "mean absolute error", higher=False)  # as a share of the range

    def __init__(self, section: Bounded) -> None:
        self._column, self._low, self._range = section.column, section.low, section.high - section.low

    @property
    def words(self) -> str:
        return f"{self._column}: a number from {self._low:g} to {self._low + self._range:g}"

    @property
    def names(self) -> tuple[str, ...]:
        return (self._column,)

    @property
    def groups(self) -> tuple[str, ...]:
        middle = self._low + self._range / 2
        return (f"{self._column} below {middle:g}", f"{self._column} from {middle:g}")

    def labels(self, cells: pd.DataFrame, path: Path, problem: Problem) -> pd.Series:
        numbers = pd.to_numeric(cells[self._column].map(text_of), errors="coerce").astype("float32")
        bad = ~numbers.between(self._low, self._low + self._range)
        if bad.any():
            problem(f"{path}: column '{self._column}' is not within task.low and task.high in {rows_of(bad)}")
        return numbers[~bad]

    def made_up(self, count: int) -> torch.Tensor:
        return self._low + self._range * (torch.arange(count) % 8 / 7)

    def group_of(self, labels: np.ndarray) -> np.ndarray:
        return (self._share(labels) >= 0.5).astype(np.int64)

    @property
    def outputs(self) -> int:
        return 1

    def losses(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (outputs[:, 0] - (labels - self._low) / self._range).square()

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        return self._low + self._range * outputs.clamp(0, 1)

    def scores(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        error = np.abs(predictions[:, 0] - labels) / self._range
        return {"mae": float(error.mean()), "worst": float(error.max())}

    def guess(self, labels: np.ndarray) -> np.ndarray:
        return np.array([labels.mean()], dtype=np.float64)

    def confidences(self, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        confidence: np.ndarray = -np.log(np.abs(predictions[:, 0] - labels) / self._range + 1e-3)
        return confidence

    def _share(self, labels: np.ndarray) -> np.ndarray:
        share: np.ndarray = (labels - self._low) / self._range
        return share
