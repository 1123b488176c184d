"""The smallest fusion: one linear layer on the pooled features of all modalities.

Noise grows with the number of trained parameters, so at a small epsilon, with frozen pretrained encoders, this
learns more than attention does (Tramer & Boneh 2021, arXiv 2011.11660). Each modality's mean feature is scaled to
unit length, which bounds a record's gradient and gives no modality the greater say; a missing one is zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from mmmed.data.batch import Batch, Input
from mmmed.models.multimodal import Encoder, MultimodalModel, masked_mean


class Pooled(nn.Module):
    """An encoder's tokens averaged: (R, 1, width)."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = cast(nn.Module, encoder)
        self.width = encoder.width

    def forward(self, given: Input) -> torch.Tensor:
        tokens = self.encoder(given)
        return masked_mean(tokens, given.present.expand(-1, tokens.shape[1]))


class LinearFusion(MultimodalModel):
    """Pooled encoders and a linear head; see the module."""

    def __init__(self, encoders: Mapping[str, Encoder], *, outputs: int) -> None:
        super().__init__({name: Pooled(encoder) for name, encoder in encoders.items()})
        self.head = nn.Linear(sum(encoder.width for encoder in encoders.values()), outputs)
        nn.init.zeros_(self.head.weight)  # there is no symmetry to break, and no noise of a draw to unlearn
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> torch.Tensor:
        parts = []
        for name in self.modalities:
            given = batch.inputs[name]
            there = given.present.any(1, keepdim=True)  # [r, 1]
            parts.append(F.normalize(self.encoder(name)(given)[:, 0], dim=1) * there)
        return self.head(torch.cat(parts, dim=1))
