"""Weighted mean fusion: as the mean, with a learned weight for each modality."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mmmed.data.batch import Batch
from mmmed.models.fusion.blocks import Learned, VectorModel, shares, zero_head
from mmmed.models.multimodal import Encoder


class WeightedMeanFusion(VectorModel):
    """Pooled encoders, the weighted mean of the vectors that are there, and a linear head. Weights begin equal."""

    def __init__(self, encoders: Mapping[str, Encoder], *, outputs: int, width: int) -> None:
        super().__init__(encoders, width)
        self.weights = Learned(len(encoders), std=0.0)
        self.head = zero_head(width, outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        vectors, there = self.vectors(batch)  # [r, m, d], [r, m]
        weights = shares(self.weights(len(batch)), there)
        return self.head((weights[..., None] * vectors).sum(1))
