"""The smallest fusion: one linear layer on the pooled features of all modalities.

Noise grows with the number of trained parameters, so at a small epsilon, with frozen pretrained encoders, this
learns more than attention does (Tramer & Boneh 2021, arXiv 2011.11660). Each modality's mean feature is scaled to
unit length, which bounds a record's gradient and gives no modality the greater say; a missing one is zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from mmmed.data.batch import Batch
from mmmed.models.fusion.blocks import Pooled, zero_head
from mmmed.models.multimodal import Encoder, MultimodalModel


class LinearFusion(MultimodalModel):
    """Pooled encoders and a linear head; see the module."""

    def __init__(self, encoders: Mapping[str, Encoder], *, outputs: int) -> None:
        super().__init__({name: Pooled(encoder) for name, encoder in encoders.items()})
        self.head = zero_head(sum(encoder.width for encoder in encoders.values()), outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        parts = []
        for name in self.modalities:
            given = batch.inputs[name]
            there = given.present.any(1, keepdim=True)  # [r, 1]
            parts.append(F.normalize(self.encoder(name)(given)[:, 0], dim=1) * there)
        return self.head(torch.cat(parts, dim=1))
