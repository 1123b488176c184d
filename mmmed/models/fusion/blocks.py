"""What fusions share: projection to one width, attention, learned tokens, weights of what is there.

Everything acts within one record. The shapes use r records, t tokens, m modalities, d = width, h heads.
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


class TokenModel(MultimodalModel):
    """A model whose encoders' tokens are projected to one width and normalised.

    Args:
        encoders: by the name of the modality; each becomes a submodule of that name.
        width: of the projected tokens.
    """

    def __init__(self, encoders: Mapping[str, Encoder], width: int) -> None:
        super().__init__(encoders)
        for name, encoder in encoders.items():
            self.add_module(f"{name}_projection", nn.Linear(encoder.width, width))
            self.add_module(f"{name}_norm", nn.LayerNorm(width))

    def tokens(self, name: str, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(R, S, d) tokens of one modality, and (R, S) bool, whether each is there."""
        given = batch.inputs[name]
        encoder, projection, norm = (self.get_submodule(name + part) for part in ("", "_projection", "_norm"))
        tokens = norm(projection(encoder(given)))
        one = tokens.shape[1] == 1  # of a record, whatever its flags
        present = given.present.any(1, keepdim=True) if one else given.present
        return tokens, present.expand(-1, tokens.shape[1])

    def each(self, batch: Batch) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """`tokens` of all modalities, in order."""
        return [self.tokens(name, batch) for name in self.modalities]


class VectorModel(TokenModel):
    """The same, of one token a modality: the mean of its encoder's, which is all that is kept of a frozen one."""

    def __init__(self, encoders: Mapping[str, Encoder], width: int) -> None:
        super().__init__({name: Pooled(encoder) for name, encoder in encoders.items()}, width)

    def vectors(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(R, M, d), zero where missing, and (R, M) bool, whether each modality is there."""
        vectors, there = (torch.cat(parts, dim=1) for parts in zip(*self.each(batch), strict=True))
        return vectors * there[..., None], there


class AttentionBlock(nn.Module):
    """One pre-norm block of a transformer: the query attends to the context, then a feed-forward layer."""

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

    def forward(
        self, query: torch.Tensor, context: torch.Tensor | None, present: torch.Tensor
    ) -> torch.Tensor:
        """(R, Q, d) query to the same.

        Args:
            query: (R, Q, d).
            context: (R, T, d), normalised; None for the query itself (self-attention).
            present: (R, T) bool, at least one of each record: which of the context can be seen.
        """
        r, _, d = query.shape
        asked = self.query_norm(query)
        context = asked if context is None else context

        def split(x: torch.Tensor) -> torch.Tensor:
            return x.view(r, -1, self.heads, d // self.heads).transpose(1, 2)  # [r, h, t, d / h]

        attended = F.scaled_dot_product_attention(
            split(self.query(asked)),
            split(self.key(context)),
            split(self.value(context)),
            attn_mask=present[:, None, None, :],
        )
        query = query + self.dropout(self.out(attended.transpose(1, 2).reshape(r, -1, d)))
        return query + self.dropout(self.feed(self.feed_norm(query)))


class Learned(nn.Module):
    """Learned numbers, the same for each record. A module, so that the trainable sets find it.

    Args:
        shape: of a record's.
        std: of the normal distribution that they are drawn from.
    """

    def __init__(self, *shape: int, std: float = 0.02) -> None:
        super().__init__()
        self.weight = nn.Parameter(std * torch.randn(shape))

    def forward(self, rows: int) -> torch.Tensor:
        """(rows, *shape)."""
        return self.weight.expand(rows, *self.weight.shape)


def shares(scores: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """(R, M) -> (R, M): the softmax over the modalities that are there, zero for the others; all zero if none is."""
    lowest = torch.finfo(scores.dtype).min
    return torch.softmax(scores.masked_fill(~there, lowest), dim=1) * there


def zero_head(width: int, outputs: int) -> nn.Linear:
    """A linear layer that begins at zero: there is no symmetry to break, and no noise of a draw to unlearn."""
    head = nn.Linear(width, outputs)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
