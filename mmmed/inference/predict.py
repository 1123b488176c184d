"""Predictions of one site's records."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from mmmed.data.batch import fill
from mmmed.data.loader import Records
from mmmed.models import MultimodalModel
from mmmed.tasks.base import Target

_BATCH = 32


@dataclass(frozen=True)
class Predictions:
    """Predictions of N held-out records of one site.

    Attributes:
        site: its name.
        patient: (N,) int64, whose record it is (within the site).
        label: (N,) or (N, L).
        prediction: (N, K) float64.
        guess: (K,) float64, from the labels of the site's *training* records (`Target.guess`): the site-only guess.
        rows: (N,) int64, where each stands in the site's manifest; empty if that is not known.
    """

    site: str
    patient: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    guess: np.ndarray
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


@torch.no_grad()
def predict(model: MultimodalModel, target: Target, records: Records) -> np.ndarray:
    """(N, K) float64 predictions of `records`, in order. The model is left in evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    parts = []
    for batch in records.batches(_BATCH):
        rows = fill(len(batch), _BATCH)
        parts.append(target.predictions(model.answer(batch[rows].to(device)))[: len(batch)].double().cpu())
    return torch.cat(parts).numpy()
