"""Columns of a table as feature tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from mmmed.data.batch import Input

WIDTH = 32


class TableEncoder(nn.Module):
    """Features (R, F) float of K columns, those of one column side by side -> (R, K, width) float, one token a column.

    A token is made from the column's own features and from which column it is; a missing column's is masked.
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
        return F.gelu(self.linear(features))
