"""Mean fusion: the mean of the modalities that a record has, so that what is missing shifts nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mmmed.data.batch import Batch
from mmmed.models.fusion.blocks import VectorModel, zero_head
from mmmed.models.multimodal import Encoder, masked_mean


class MeanFusion(VectorModel):
    """Pooled encoders, the mean of the vectors that are there, and a linear head."""

    def __init__(self, encoders: Mapping[str, Encoder], *, outputs: int, width: int) -> None:
        super().__init__(encoders, width)
        self.head = zero_head(width, outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        vectors, there = self.vectors(batch)  # [r, m, d], [r, m]
        return self.head(masked_mean(vectors, there)[:, 0])
