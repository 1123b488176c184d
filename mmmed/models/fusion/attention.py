"""Cross-attention fusion of the tokens of several modalities, any of them possibly missing.

A learned query of each record attends to the tokens of its own modalities; what is missing is
masked out, and a learned null token keeps attention defined when everything is missing. The query starts
from the pooled features of the modalities that are present, so the gradient reaches every encoder directly.
Everything acts within one record. The shapes use r records, t tokens, d = width, h heads.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from mmmed.data.batch import Batch, Input
from mmmed.models.multimodal import Encoder, MultimodalModel, masked_mean

_OWN = ("query", "null")  # kinds of token that are no modality's


class CrossAttention(nn.Module):
    """One pre-norm block: the query attends to the context, then a feed-forward layer."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: torch.Tensor, context: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        r, _, d = query.shape

        def split(x: torch.Tensor) -> torch.Tensor:
            return x.view(r, -1, self.heads, d // self.heads).transpose(1, 2)  # [r, h, t, d / h]

        attended = F.scaled_dot_product_attention(
            split(self.query(self.query_norm(query))),
            split(self.key(context)),
            split(self.value(context)),
            attn_mask=present[:, None, None, :],
        )
        query = query + self.dropout(self.out(attended.transpose(1, 2).reshape(r, -1, d)))
        return query + self.dropout(self.feed(self.feed_norm(query)))


class AttentionFusion(MultimodalModel):
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
        super().__init__(encoders)
        for name, encoder in encoders.items():
            self.add_module(f"{name}_projection", nn.Linear(encoder.width, width))
            self.add_module(f"{name}_norm", nn.LayerNorm(width))
        self.kind = nn.Embedding(len(_OWN) + len(encoders), width)
        self.blocks = nn.ModuleList(CrossAttention(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)
        nn.init.normal_(self.kind.weight, std=0.02)

    def forward(self, batch: Batch) -> torch.Tensor:
        rows = len(batch)
        query = self._kind("query", rows)  # [r, 1, d]
        context = [self._kind("null", rows)]
        present = [torch.ones(rows, 1, dtype=torch.bool, device=query.device)]
        for name in self.modalities:
            given = batch.inputs[name]
            tokens = self.encode(name, given)  # [r, s, d]
            mask = given.present.expand(-1, tokens.shape[1])
            query = query + masked_mean(tokens, mask)
            context.append(tokens + self._kind(name, rows))
            present.append(mask)
        memory, visible = torch.cat(context, dim=1), torch.cat(present, dim=1)
        for block in self.blocks:
            query = block(query, memory, visible)
        return self.head(self.norm(query[:, 0]))

    def encode(self, name: str, given: Input) -> torch.Tensor:
        """(R, S, d) tokens of one modality."""
        encoder, projection, norm = (getattr(self, name + part) for part in ("", "_projection", "_norm"))
        tokens: torch.Tensor = norm(projection(encoder(given)))
        return tokens

    def _kind(self, name: str, rows: int) -> torch.Tensor:
        index = (*_OWN, *self.modalities).index(name)
        device = self.kind.weight.device
        embedded: torch.Tensor = self.kind(torch.full((rows, 1), index, dtype=torch.int64, device=device))
        return embedded
