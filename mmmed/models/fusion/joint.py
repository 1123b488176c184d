"""Joint encoder: one transformer over the tokens of all modalities, each token attending to every other.

The single stream of VisualBERT (Li et al. 2019, arXiv 1908.03557) and ViLT (Kim et al. 2021, arXiv 2102.03334).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from mmmed.data.batch import Batch
from mmmed.models.fusion.blocks import AttentionBlock, Learned, TokenModel, zero_head
from mmmed.models.multimodal import Encoder


class JointFusion(TokenModel):
    """Encoders, self-attention over a class token and all tokens, each with its modality's embedding, and a head."""

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
        self.kinds = Learned(1 + len(encoders), width)  # the class token, and an embedding of each modality
        self.blocks = nn.ModuleList(AttentionBlock(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = zero_head(width, outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        kinds = self.kinds(len(batch))
        sequence, present = [kinds[:, :1]], [torch.ones_like(kinds[:, :1, 0], dtype=torch.bool)]
        for i, (tokens, mask) in enumerate(self.each(batch), start=1):
            sequence.append(tokens + kinds[:, i : i + 1])
            present.append(mask)
        states, visible = torch.cat(sequence, dim=1), torch.cat(present, dim=1)
        for block in self.blocks:
            states = block(states, None, visible)
        return self.head(self.norm(states[:, 0]))
