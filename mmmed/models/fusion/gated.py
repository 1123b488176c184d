"""Gated fusion: each feature of each modality passes a gate that all modalities together set.

The gated multimodal unit of Arevalo et al. 2017 (arXiv 1702.01992, equation 3, for any number of modalities).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from mmmed.data.batch import Batch
from mmmed.models.fusion.blocks import VectorModel, zero_head
from mmmed.models.multimodal import Encoder


class GatedFusion(VectorModel):
    """Pooled encoders, the gated sum of the m vectors of d, and a linear head."""

    def __init__(self, encoders: Mapping[str, Encoder], *, outputs: int, width: int) -> None:
        super().__init__(encoders, width)
        self.gates = nn.Linear(len(encoders) * width, len(encoders) * width)
        self.head = zero_head(width, outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        vectors, _ = self.vectors(batch)  # [r, m, d]; tanh(0) = 0, so what is missing adds nothing
        gates = torch.sigmoid(self.gates(vectors.flatten(1))).view_as(vectors)
        return self.head((gates * torch.tanh(vectors)).sum(1))
