"""Late fusion: each modality predicts by itself, and the logits are averaged with learned weights.

The head's columns that read one modality are its own classifier, so the logits are the weighted mean of m classifiers'
with one bias. A missing modality leaves its weight to the others. See Baltrusaitis et al. 2019, arXiv 1705.09406,
section 5.1.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from mmmed.data.batch import Batch
from mmmed.models.fusion.blocks import Learned, VectorModel, shares, zero_head
from mmmed.models.multimodal import Encoder


class LateFusion(VectorModel):
    """Pooled encoders, a weight for each modality, and the modalities' classifiers. Weights begin equal."""

    def __init__(self, encoders: Mapping[str, Encoder], *, outputs: int, width: int) -> None:
        super().__init__(encoders, width)
        self.weights = Learned(len(encoders), std=0.0)
        self.head = zero_head(len(encoders) * width, outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        vectors, there = self.vectors(batch)  # [r, m, d], [r, m]
        weights = shares(self.weights(len(batch)), there)
        return self.head((weights[..., None] * F.gelu(vectors)).flatten(1))
