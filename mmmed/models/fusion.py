"""Cross-attention fusion of image and text tokens, with either possibly missing.

A learned query of each record attends to its own image and text tokens; tokens of a missing modality are
masked out, and a learned null token keeps attention defined when everything is missing. The query starts
from the pooled features of the modalities that are present, so the gradient reaches both encoders directly.
Everything acts within one record. The shapes use r records, t tokens, d = fusion_dim, h heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from mmmed.data.batch import Batch
from mmmed.models.image import ImageEncoder
from mmmed.models.text import TextEncoder

_QUERY, _NULL, _IMAGE, _TEXT = range(4)


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


class FusionModel(nn.Module):
    """The whole model: `forward(batch)` gives (R, outputs) logits, one output for a binary task."""

    def __init__(
        self,
        image: ImageEncoder | None,
        text: TextEncoder | None,
        *,
        width: int,
        heads: int,
        layers: int,
        dropout: float,
        outputs: int,
    ) -> None:
        super().__init__()
        self.image = image
        self.text = text
        self.image_projection = nn.Linear(image.width, width) if image else None
        self.text_projection = nn.Linear(text.width, width) if text else None
        self.image_norm = nn.LayerNorm(width) if image else None
        self.text_norm = nn.LayerNorm(width) if text else None
        self.kind = nn.Embedding(4, width)
        self.blocks = nn.ModuleList(CrossAttention(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)
        nn.init.normal_(self.kind.weight, std=0.02)

    def forward(self, batch: Batch) -> torch.Tensor:
        rows = batch.label.shape[0]
        query = self._kind(_QUERY, rows)  # [r, 1, d]
        context, present = [self._kind(_NULL, rows)], [torch.ones_like(batch.has_image)[:, None]]
        if self.image is not None and self.image_projection is not None and self.image_norm is not None:
            tokens = self.image_norm(self.image_projection(self.image(batch.image)))  # [r, s, d]
            mask = batch.has_image[:, None].expand(-1, tokens.shape[1])
            query = query + _masked_mean(tokens, mask)
            context.append(tokens + self._kind(_IMAGE, rows))
            present.append(mask)
        if self.text is not None and self.text_projection is not None and self.text_norm is not None:
            tokens = self.text_norm(
                self.text_projection(self.text(batch.tokens, batch.token_mask))
            )  # [r, t, d]
            mask = batch.token_mask & batch.has_text[:, None]
            query = query + _masked_mean(tokens, mask)
            context.append(tokens + self._kind(_TEXT, rows))
            present.append(mask)
        memory, visible = torch.cat(context, dim=1), torch.cat(present, dim=1)
        for block in self.blocks:
            query = block(query, memory, visible)
        return self.head(self.norm(query[:, 0]))

    def _kind(self, index: int, rows: int) -> torch.Tensor:
        device = self.kind.weight.device
        embedded: torch.Tensor = self.kind(torch.full((rows, 1), index, dtype=torch.int64, device=device))
        return embedded


def _masked_mean(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(R, T, d) and (R, T) -> (R, 1, d): the mean of the visible tokens, zero where none is."""
    weight = mask.to(tokens.dtype)[..., None]
    return (tokens * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
