"""Channel fusion: what all modalities say together scales each channel of each of them.

The multimodal transfer module of Joze et al. 2020 (MMTM, arXiv 1911.08670), a squeeze-and-excitation (Hu et al. 2018,
arXiv 1709.01507) across modalities, on the encoders' last features.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from mmmed.data.batch import Batch
from mmmed.models.fusion.blocks import VectorModel, zero_head
from mmmed.models.multimodal import Encoder


class ChannelFusion(VectorModel):
    """Pooled encoders, a scale in (0, 2) for each of the m d channels, and a linear head on all of them.

    Args:
        encoders: by the name of the modality.
        outputs: logits a record.
        width: d.
        reduction: the channels over the joint features that the scales follow from.
    """

    def __init__(self, encoders: Mapping[str, Encoder], *, outputs: int, width: int, reduction: int) -> None:
        super().__init__(encoders, width)
        channels = len(encoders) * width
        self.squeeze = nn.Linear(channels, max(1, channels // reduction))
        self.excite = nn.Linear(max(1, channels // reduction), channels)
        self.head = zero_head(channels, outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        vectors, _ = self.vectors(batch)
        channels = vectors.flatten(1)  # [r, m d]
        scales = 2 * torch.sigmoid(self.excite(F.relu(self.squeeze(channels))))
        return self.head(scales * channels)
