"""Several findings at once, each there or not, some of them not looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from mmmed.data.cells import Problem, canonical, rows_of, text_of
from mmmed.tasks import Multilabel
from mmmed.tasks.answers import AnswersTarget
from mmmed.tasks.measures import defined_mean


class MultilabelTarget(AnswersTarget):
    """L findings. A label is L float32, 1, 0 or NaN where the cell is empty; a prediction the L probabilities of 1."""

    def __init__(self, section: Multilabel) -> None:
        self._columns = section.labels

    @property
    def words(self) -> str:
        return f"which of {', '.join(self._columns)}"

    @property
    def names(self) -> tuple[str, ...]:
        return self._columns

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(f"{name} = {value}" for name in self._columns for value in (0, 1))

    @property
    def questions(self) -> tuple[str, ...]:
        return self._columns

    def unlabelled(self, empty: pd.DataFrame) -> pd.Series:
        return empty.all(axis=1)

    def labels(self, cells: pd.DataFrame, path: Path, problem: Problem) -> pd.DataFrame:
        read = {}
        keep = pd.Series(True, index=cells.index)
        for name in self._columns:
            empty = cells[name].map(text_of) == ""
            values = cells[name].map(lambda cell: {"0": 0.0, "1": 1.0}.get(canonical(cell)))
            bad = values.isna() & ~empty
            if bad.any():
                problem(
                    f"{path}: column '{name}' holds {cells[name][bad].iloc[0]!r} in {rows_of(bad)}. task.labels are "
                    "columns of 0 and 1; a cell that is empty says that it is not known"
                )
            read[name], keep = values.astype("float32"), keep & ~bad
        return pd.DataFrame(read)[keep]

    def made_up(self, count: int) -> torch.Tensor:
        rows, columns = torch.arange(count)[:, None], torch.arange(len(self._columns))
        labels = ((rows + columns) % 2).float()
        unknown = (rows % 3 == 1) & ((rows + columns) % len(self._columns) == 0) & (len(self._columns) > 1)
        return labels.masked_fill(unknown, torch.nan)

    def group_of(self, labels: np.ndarray) -> np.ndarray:
        numbers = 2 * np.arange(len(self._columns)) + np.nan_to_num(labels).astype(np.int64)
        return np.where(np.isnan(labels), -1, numbers)

    @property
    def outputs(self) -> int:
        return len(self._columns)

    def losses(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Binary cross-entropy over the known labels of each record, over L: each known cell weighs the same."""
        known = ~labels.isnan()
        target = torch.where(known, labels, 0.0).to(outputs.dtype)
        each = F.binary_cross_entropy_with_logits(outputs, target, reduction="none")
        return (each * known).sum(1) / len(self._columns)

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(outputs)

    def corrected(self, prediction: np.ndarray, score: np.ndarray) -> np.ndarray:
        return score

    def possible(self, answers: np.ndarray) -> tuple[str, ...]:
        said = {(True, False): "no", (False, True): "yes", (True, True): "yes or no"}
        return tuple(
            f"{name}: {said[bool(no), bool(yes)]}"
            for name, (no, yes) in zip(self._columns, answers, strict=True)
        )

    def evidence(self, predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return predictions, labels.astype(np.float64)

    def mean(self, values: list[float]) -> float:
        return defined_mean(values)

    def likelihoods(self, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        chosen = np.where(labels == 1, predictions, 1 - predictions)
        product: np.ndarray = np.where(np.isnan(labels), 1.0, chosen).prod(axis=1)
        return product

    def guess(self, labels: np.ndarray) -> np.ndarray:
        """The share of each finding among the known; a half where none is."""
        known = (~np.isnan(labels)).sum(axis=0)
        shares: np.ndarray = np.where(known, np.nansum(labels, axis=0) / np.maximum(known, 1), 0.5)
        return shares.astype(np.float64)
