"""Ordered classes, such as grades: the probability of being above each threshold between two of them."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from mmmed.tasks import Ordinal
from mmmed.tasks.answers import ClassesTarget
from mmmed.tasks.base import Score


class OrdinalTarget(ClassesTarget):
    """One of K ordered classes.

    The model gives K - 1 numbers: the log-odds of being above the first class, and by how much those of each next
    threshold lie below, through a softplus. So they are in order whatever the weights are, as in a cumulative link
    model (McCullagh 1980) and CORAL (Cao et al. 2020, arXiv 1901.07884).
    """

    score: ClassVar[Score] = Score("auroc", "AUROC over thresholds", higher=True)

    def __init__(self, section: Ordinal) -> None:
        super().__init__(section.label, section.classes)

    @property
    def words(self) -> str:
        return f"{self._column}: {' < '.join(self._classes)}"

    @property
    def outputs(self) -> int:
        return len(self._classes) - 1

    def losses(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean over thresholds of the cross-entropy of being above each: (R, K - 1) and (R,) int64 -> (R,)."""
        above = labels[:, None] > torch.arange(self.outputs, device=labels.device)
        logits = _in_order(outputs)
        return F.binary_cross_entropy_with_logits(logits, above.to(logits.dtype), reduction="none").mean(1)

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        above = torch.sigmoid(_in_order(outputs))
        ends = above.new_ones(len(above), 1), above.new_zeros(len(above), 1)
        return torch.cat([ends[0], above], 1) - torch.cat([above, ends[1]], 1)

    def corrected(self, prediction: np.ndarray, score: np.ndarray) -> np.ndarray:
        above = np.minimum.accumulate(score)  # each threshold has a shift of its own, and the order stays
        corrected: np.ndarray = np.append(1, above) - np.append(above, 0)
        return corrected

    def possible(self, answers: np.ndarray) -> tuple[str, ...]:
        grades = range(len(self._classes))
        above = np.arange(self.outputs)
        held = [bool(answers[above, (grade > above).astype(int)].all()) for grade in grades]
        return tuple(name for name, one in zip(self.groups, held, strict=True) if one) or self.groups

    @property
    def together(self) -> int:
        return self.outputs

    def evidence(self, predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Above each threshold or not."""
        above = np.clip(predictions[:, ::-1].cumsum(axis=1)[:, -2::-1], 0.0, 1.0)
        return above, (labels[:, None] > np.arange(self.outputs)).astype(np.float64)

    def scores(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Those of being above each threshold; the mean error in classes over K - 1; quadratic weighted kappa.

        The last two are of the class up to which half the probability lies (Cohen 1968 for kappa).
        """
        chosen = (predictions.cumsum(axis=1) < 0.5).sum(axis=1).clip(max=self.outputs)
        off = np.square(chosen - labels).mean()
        by_chance = chosen.var() + labels.var() + (chosen.mean() - labels.mean()) ** 2
        return {
            **super().scores(predictions, labels),
            "mae": float(np.abs(chosen - labels).mean() / self.outputs),
            "kappa": float(1 - off / by_chance) if by_chance else float("nan"),
        }


def _in_order(outputs: torch.Tensor) -> torch.Tensor:
    """(R, K - 1) -> the log-odds of being above each threshold, falling."""
    return outputs[:, :1] - F.pad(F.softplus(outputs[:, 1:]).cumsum(1), (1, 0))
