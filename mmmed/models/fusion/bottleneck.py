"""Bottleneck fusion: modalities tell each other what fits into a few shared tokens.

Nagrani et al. 2021 (MBT, arXiv 2107.00135, equations 8 and 9). Each modality's tokens attend to themselves and to the
bottleneck; the bottleneck of the next block is the mean of what the modalities that are there made of it. The tokens
read in the second block what the others wrote in the first.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from mmmed.data.batch import Batch
from mmmed.models.fusion.blocks import AttentionBlock, Learned, TokenModel, zero_head
from mmmed.models.multimodal import Encoder, masked_mean


class BottleneckFusion(TokenModel):
    """Encoders, `layers` blocks a modality around `bottlenecks` tokens, and a linear head on the modalities' mean."""

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        outputs: int,
        width: int,
        heads: int,
        layers: int,
        dropout: float,
        bottlenecks: int,
    ) -> None:
        super().__init__(encoders, width)
        self.bottleneck = Learned(bottlenecks, width)
        self.blocks = nn.ModuleList(
            AttentionBlock(width, heads, dropout) for _ in range(layers * len(encoders))
        )
        self.norm = nn.LayerNorm(width)
        self.head = zero_head(width, outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        tokens, masks = (
            list(one) for one in zip(*self.each(batch), strict=True)
        )  # m of [r, s, d], of [r, s]
        there = torch.stack([mask.any(1) for mask in masks], dim=1)  # [r, m]
        shared = self.bottleneck(len(batch))  # [r, b, d]
        seen = torch.ones_like(shared[..., 0], dtype=torch.bool)
        for start in range(0, len(self.blocks), len(tokens)):
            written = []
            for i, mask in enumerate(masks):
                both, visible = torch.cat([tokens[i], shared], dim=1), torch.cat([mask, seen], dim=1)
                both = self.blocks[start + i](both, None, visible)
                tokens[i], own = both.split([mask.shape[1], seen.shape[1]], dim=1)
                written.append(own.flatten(1))
            shared = masked_mean(torch.stack(written, dim=1), there).view_as(shared)
        pooled = [masked_mean(self.norm(one), mask) for one, mask in zip(tokens, masks, strict=True)]
        return self.head(masked_mean(torch.cat(pooled, dim=1), there)[:, 0])
