"""Early fusion: the modalities' features side by side, then a multilayer perceptron.

It sees how features of several modalities go together. See Baltrusaitis et al. 2019, "Multimodal machine learning",
arXiv 1705.09406, section 5.1.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from mmmed.data.batch import Batch
from mmmed.models.fusion.blocks import VectorModel, zero_head
from mmmed.models.multimodal import Encoder


class ConcatFusion(VectorModel):
    """Pooled encoders, one hidden layer on the m modalities' vectors of d, and a linear head."""

    def __init__(self, encoders: Mapping[str, Encoder], *, outputs: int, width: int) -> None:
        super().__init__(encoders, width)
        self.hidden = nn.Linear(len(encoders) * width, width)
        self.head = zero_head(width, outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        vectors, _ = self.vectors(batch)  # [r, m, d]
        return self.head(F.gelu(self.hidden(vectors.flatten(1))))
