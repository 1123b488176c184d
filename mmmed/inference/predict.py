"""Class probabilities of one site's records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from mmmed.data.batch import fill
from mmmed.data.loader import Records
from mmmed.training.losses import probabilities

_BATCH = 32


@dataclass(frozen=True)
class Predictions:
    """Predictions of N held-out records of one site.

    Attributes:
        site: its name.
        patient: (N,) int64, whose record it is (within the site).
        label: (N,) int64.
        probability: (N, K) float64.
        prevalence: (K,) float64, class shares among the site's *training* records: the site-only guess.
    """

    site: str
    patient: np.ndarray
    label: np.ndarray
    probability: np.ndarray
    prevalence: np.ndarray


@torch.no_grad()
def predict(model: nn.Module, records: Records) -> np.ndarray:
    """(N, K) float64 class probabilities of `records`, in order. The model is left in evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    parts = []
    for batch in records.batches(_BATCH):
        rows = fill(len(batch), _BATCH)
        parts.append(probabilities(model(batch[rows].to(device)))[: len(batch)].double().cpu())
    return torch.cat(parts).numpy()
