"""Classification: cross-entropy, class probabilities, and the area under the ROC curve."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from mmmed.tasks import Classification
from mmmed.tasks.answers import ClassesTarget


class ClassTarget(ClassesTarget):
    """One of several classes.

    With two classes the model gives one logit, of the second, else one a class.
    """

    def __init__(self, section: Classification) -> None:
        super().__init__(section.label, section.classes)
        self._weights, self._focal = torch.tensor(section.weights), section.focal

    @property
    def words(self) -> str:
        return f"{self._column}: {', '.join(self._classes)}"

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

    def corrected(self, prediction: np.ndarray, score: np.ndarray) -> np.ndarray:
        return np.append(1 - score, score) if self.outputs == 1 else score / score.sum()

    def possible(self, answers: np.ndarray) -> tuple[str, ...]:
        there = answers[0] if self.outputs == 1 else answers[:, 1]
        return tuple(name for name, one in zip(self.groups, there, strict=True) if one) or self.groups

    def evidence(self, predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each class against the rest; of two the second alone."""
        classes = np.array([1]) if len(self._classes) == 2 else np.arange(len(self._classes))
        return predictions[:, classes], (labels[:, None] == classes).astype(np.float64)
