"""Columns of a table as feature tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from mmmed.data.batch import Input

WIDTH = 32
_LAYERS, _HEADS = 2, 4  # of the transformer


class Columns(nn.Module):
    """Features (R, F) float of K columns, those of one column side by side -> (R, K, width) float, one token a column.

    A token is made from the column's own features and from which column it is.
    One Linear serves all: its input is zero but for the column's features, so each column has weights of its own.
    """

    def __init__(self, widths: Sequence[int], width: int = WIDTH) -> None:
        super().__init__()
        self.width = width
        columns = torch.eye(len(widths))
        own = columns.repeat_interleave(torch.tensor(widths), dim=1)  # [k, f]
        self.columns = nn.Buffer(columns, persistent=False)
        self.own = nn.Buffer(own, persistent=False)
        self.linear = nn.Linear(sum(widths) + len(widths), width)

    def forward(self, given: Input) -> torch.Tensor:
        rows = len(given.values)
        features = torch.cat([given.values[:, None] * self.own, self.columns.expand(rows, -1, -1)], dim=2)
        tokens: torch.Tensor = self.linear(features)
        return tokens


class TableEncoder(Columns):
    """The columns' tokens, each through a nonlinearity: (R, K, width) float. A missing column's is masked."""

    def forward(self, given: Input) -> torch.Tensor:
        return F.gelu(super().forward(given))


class _Block(nn.Module):
    """Tokens (R, T, width) attend to those that are present, (R, T) bool; then a feed-forward layer with ReGLU."""

    def __init__(self, width: int, *, first: bool) -> None:
        super().__init__()
        hidden = 4 * width // 3
        self.norm = nn.Identity() if first else nn.LayerNorm(width)  # as the paper has it
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, tokens: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(self.norm(tokens)).unflatten(2, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=present[:, None, None, :])
        tokens = tokens + self.out(seen.transpose(1, 2).flatten(2))
        gate, value = self.up(self.feed_norm(tokens)).chunk(2, 2)
        fed: torch.Tensor = self.down(F.relu(gate) * value)
        return tokens + fed


class FTTransformer(nn.Module):
    """Features (R, F) float of K columns -> (R, K, width) float: one vector a record, at each of its columns.

    A class token attends to the columns that are present, and these to each other (Gorishniy et al. 2021, arXiv
    2106.11959). Smaller than there, since noise grows with the parameters; without dropout.
    """

    def __init__(self, widths: Sequence[int], width: int = WIDTH) -> None:
        super().__init__()
        self.width = width
        self.columns = Columns(widths, width)
        self.cls = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.blocks = nn.ModuleList(_Block(width, first=not layer) for layer in range(_LAYERS))
        self.norm = nn.LayerNorm(width)

    def forward(self, given: Input) -> torch.Tensor:
        rows, columns = given.present.shape
        tokens = torch.cat([self.cls.expand(rows, -1, -1), self.columns(given)], 1)
        present = torch.cat([given.present.new_ones(rows, 1), given.present], 1)
        for block in self.blocks:
            tokens = block(tokens, present)
        vector: torch.Tensor = self.norm(tokens[:, :1])
        return vector.expand(-1, columns, -1)
