"""Cross-attention both ways: the tokens of each modality attend to those of all others.

Lu et al. 2019 (ViLBERT, arXiv 1908.02265) and Tsai et al. 2019 (MulT, arXiv 1906.00295); here one block a modality, not
one a pair, so that parameters grow with the number of modalities alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from mmmed.data.batch import Batch
from mmmed.models.fusion.blocks import AttentionBlock, Learned, TokenModel, zero_head
from mmmed.models.multimodal import Encoder, masked_mean


class CrossAttentionFusion(TokenModel):
    """Encoders, `layers` blocks a modality, the mean of each modality's tokens side by side, and a linear head."""

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        outputs: int,
        width: int,
        heads: int,
        layers: int,
        dropout: float,
    ) -> None:
        super().__init__(encoders, width)
        self.null = Learned(1, width)  # what there is to see where all others are missing
        self.blocks = nn.ModuleList(
            AttentionBlock(width, heads, dropout) for _ in range(layers * len(encoders))
        )
        self.norm = nn.LayerNorm(width)
        self.head = zero_head(len(encoders) * width, outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        tokens, masks = (
            list(one) for one in zip(*self.each(batch), strict=True)
        )  # m of [r, s, d], of [r, s]
        null = self.null(len(batch))
        alone = torch.ones_like(masks[0][:, :1])
        for start in range(0, len(self.blocks), len(tokens)):
            before = [F.layer_norm(one, one.shape[-1:]) for one in tokens]
            for i in range(len(tokens)):
                others = torch.cat([null, *before[:i], *before[i + 1 :]], dim=1)
                visible = torch.cat([alone, *masks[:i], *masks[i + 1 :]], dim=1)
                tokens[i] = self.blocks[start + i](tokens[i], others, visible)
        pooled = [masked_mean(self.norm(one), mask)[:, 0] for one, mask in zip(tokens, masks, strict=True)]
        return self.head(torch.cat(pooled, dim=1))
