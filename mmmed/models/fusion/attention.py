"""Cross-attention fusion of the tokens of several modalities, any of them possibly missing.

A learned query of each record attends to the tokens of its own modalities; what is missing is
masked out, and a learned null token keeps attention defined when everything is missing. The query starts
from the pooled features of the modalities that are present, so the gradient reaches every encoder directly.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from mmmed.data.batch import Batch
from mmmed.models.fusion.blocks import AttentionBlock, TokenModel
from mmmed.models.multimodal import Encoder, masked_mean

_OWN = ("query", "null")  # kinds of token that are no modality's


class AttentionFusion(TokenModel):
    """Encoders, cross-attention and a linear head: `forward(batch)` gives (R, outputs) logits.

    Args:
        encoders: by the name of the modality; each becomes a submodule of that name.
        outputs: logits a record.
        width, heads, layers, dropout: see `mmmed.models.fusion.Attention`.
    """

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
        self.kind = nn.Embedding(len(_OWN) + len(encoders), width)
        self.blocks = nn.ModuleList(AttentionBlock(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)
        nn.init.normal_(self.kind.weight, std=0.02)

    def forward(self, batch: Batch) -> torch.Tensor:
        rows = len(batch)
        query = self._kind("query", rows)  # [r, 1, d]
        context = [self._kind("null", rows)]
        present = [torch.ones(rows, 1, dtype=torch.bool, device=query.device)]
        for name in self.modalities:
            tokens, mask = self.tokens(name, batch)  # [r, s, d], [r, s]
            query = query + masked_mean(tokens, mask)
            context.append(tokens + self._kind(name, rows))
            present.append(mask)
        memory, visible = torch.cat(context, dim=1), torch.cat(present, dim=1)
        for block in self.blocks:
            query = block(query, memory, visible)
        return self.head(self.norm(query[:, 0]))

    def _kind(self, name: str, rows: int) -> torch.Tensor:
        index = (*_OWN, *self.modalities).index(name)
        device = self.kind.weight.device
        embedded: torch.Tensor = self.kind(torch.full((rows, 1), index, dtype=torch.int64, device=device))
        return embedded
