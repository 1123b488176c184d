"""A number between two public bounds."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from mmmed.data.cells import Problem, rows_of, text_of
from mmmed.tasks import Regression
from mmmed.tasks.base import Score, Target

_HUBER = 0.1  # of the range, from where an error counts in proportion


class RegressionTarget(Target):
    """A number from low to high.

    Label, float32, and prediction are in its unit; the model learns its share of the range.
    The bounds are public: a share of a patient's own range would tell of the others.
    """

    score: ClassVar[Score] = Score("mae", "mean absolute error (share of the range)", higher=False)
    also_told: ClassVar[tuple[str, ...]] = ("r2",)

    def __init__(self, section: Regression) -> None:
        self._column, self._low, self._range = section.label, section.low, section.high - section.low
        self._huber = section.loss == "huber"

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
        values = cells[self._column]
        numbers = pd.to_numeric(values.map(text_of), errors="coerce").astype("float64")
        bad = ~numbers.between(self._low, self._low + self._range)
        if bad.any():
            problem(
                f"{path}: column '{self._column}' holds {values[bad].iloc[0]!r} in {rows_of(bad)}. Expected a number "
                f"from task.low = {self._low:g} to task.high = {self._low + self._range:g}"
            )
        return numbers[~bad].astype("float32")

    def made_up(self, count: int) -> torch.Tensor:
        return self._low + self._range * (torch.arange(count) % 8 / 7)

    def group_of(self, labels: np.ndarray) -> np.ndarray:
        return (self._share(labels) >= 0.5).astype(np.int64)

    @property
    def outputs(self) -> int:
        return 1

    def losses(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Of the error as a share of the range: its square, or Huber's function of it; (R, 1) and (R,) -> (R,)."""
        share = ((labels - self._low) / self._range).to(outputs.dtype)
        if self._huber:
            return F.huber_loss(outputs[:, 0], share, reduction="none", delta=_HUBER)
        return (outputs[:, 0] - share).square()

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        return self._low + self._range * outputs.clamp(0, 1)

    def scores(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Mean absolute and root mean squared error as shares of the range, and R2, cut at -1.

        A model that is as bad as R2 = -1 says so, whatever is below.
        """
        error = self._share(predictions[:, 0]) - self._share(labels)
        spread = self._share(labels).var()
        return {
            "mae": float(np.abs(error).mean()),
            "rmse": float(np.sqrt(np.square(error).mean())),
            "r2": float(max(-1.0, 1 - np.square(error).mean() / spread)) if spread else float("nan"),
        }

    def evidence(self, predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Prediction and truth as shares of the range."""
        predicted, true = (np.clip(self._share(one.reshape(-1, 1)), 0, 1) for one in (predictions, labels))
        return predicted, true

    def guess(self, labels: np.ndarray) -> np.ndarray:
        """The median, which has the least absolute error."""
        return np.array([np.median(labels)], dtype=np.float64)

    def confidences(self, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Less the logarithm of the error."""
        off = np.abs(self._share(predictions[:, 0]) - self._share(labels))
        confidence: np.ndarray = -np.log(off + 1e-3)
        return confidence

    def _share(self, values: np.ndarray) -> np.ndarray:
        share: np.ndarray = (values.astype(np.float64) - self._low) / self._range
        return share
