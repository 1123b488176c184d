"""Mixture of experts by modality: each modality predicts by itself, and each record weighs the predictions.

Jacobs et al. 1991, "Adaptive mixtures of local experts": a gate reads what all modalities say. The experts' last layers
are the columns of one head, as in late fusion.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from mmmed.data.batch import Batch
from mmmed.models.fusion.blocks import VectorModel, shares, zero_head
from mmmed.models.multimodal import Encoder


class MixtureFusion(VectorModel):
    """Pooled encoders, a linear gate, and the modalities' classifiers. The gate begins equal."""

    def __init__(self, encoders: Mapping[str, Encoder], *, outputs: int, width: int) -> None:
        super().__init__(encoders, width)
        self.gate = zero_head(len(encoders) * width, len(encoders))
        self.head = zero_head(len(encoders) * width, outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        vectors, there = self.vectors(batch)  # [r, m, d], [r, m]
        weights = shares(self.gate(vectors.flatten(1)), there)
        return self.head((weights[..., None] * F.gelu(vectors)).flatten(1))
