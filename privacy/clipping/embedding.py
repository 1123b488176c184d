"""Rows of a table, looked up by `F.embedding`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from privacy.clipping.book import Book
from privacy.clipping.operators import rule, untracked
from privacy.clipping.units import Units
from privacy.clipping.use import Cost, Use, scaled, spread, squared_norms, wide


@dataclass(frozen=True)
class Lookup(Use):
    """gradient [R, T, d] of the rows ids [R, T] of a table of `size` rows."""

    gradient: torch.Tensor
    ids: torch.Tensor
    size: int

    def _summed(self, units: Units) -> tuple[torch.Tensor, torch.Tensor]:
        """The distinct (unit, row) pairs as unit * size + row, and the gradient of each, [n, d]."""
        keys = (units.index.to(self.ids.device)[:, None] * self.size + self.ids).flatten()
        distinct, inverse = torch.unique(keys, return_inverse=True)
        rows = wide(self.gradient).flatten(0, 1)
        return distinct, rows.new_zeros(len(distinct), rows.shape[1]).index_add_(0, inverse, rows)

    def per_unit(self, units: Units) -> torch.Tensor:
        keys, rows = self._summed(units)
        out = rows.new_zeros(units.count * self.size, rows.shape[1])
        out[keys] = rows
        return out.view(units.count, -1)

    def ghost(self, units: Units) -> torch.Tensor:
        keys, rows = self._summed(units)
        squares = squared_norms(rows)
        return squares.new_zeros(units.count).index_add_(0, keys // self.size, squares)

    def reach(self, units: Units) -> torch.Tensor:
        lookups = self.ids[0].numel() * units.sizes.to(self.gradient.device)
        return lookups * spread(self.gradient, units)

    def weighted(self, factors: torch.Tensor) -> torch.Tensor:
        rows = scaled(self.gradient, factors).flatten(0, 1)
        return rows.new_zeros(self.size, rows.shape[1]).index_add_(0, self.ids.flatten(), rows)

    def cost(self, units: Units) -> Cost:
        moved = self.gradient[0].numel() * units.records / units.count
        return Cost(gradient=20.0 * moved, keep=10.0 * self.size * self.gradient.shape[2], ghost=20.0 * moved)

    @classmethod
    def joined(cls, uses: list[Lookup]) -> list[Lookup]:
        gradient, ids = torch.cat([use.gradient for use in uses], 1), torch.cat([use.ids for use in uses], 1)
        return [cls(gradient, ids, uses[0].size)]


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, ids: torch.Tensor, weight: nn.Parameter, book: Book, padding: int | None
    ) -> torch.Tensor:
        ctx.weight, ctx.book, ctx.padding = weight, book, padding
        ctx.save_for_backward(ids)
        return F.embedding(ids, weight.detach())

    @staticmethod
    @untracked
    def backward(
        ctx: Any, saved: tuple[torch.Tensor, ...], gradient: torch.Tensor
    ) -> tuple[None, None, None, None]:
        book, weight = ctx.book, ctx.weight
        (ids,) = saved
        ids = book.rows(ids, weight, 0)
        gradient = book.rows(gradient, weight, 1)
        if ctx.padding is not None:
            gradient = gradient.masked_fill((ids == ctx.padding)[..., None], 0.0)
        book.add(weight, Lookup(gradient, ids, weight.shape[0]))
        return None, None, None, None


@rule(F.embedding, of_shared=True)
def _embedding(
    book: Book,
    input: torch.Tensor,
    weight: nn.Parameter,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    if max_norm is not None or scale_grad_by_freq:
        raise book.refuse(
            weight,
            "max_norm and scale_grad_by_freq mix the records of a batch: build the layer without them.",
        )
    if not isinstance(weight, nn.Parameter) or _is_grid(book, input, weight):
        return NotImplemented
    if padding_idx is not None and padding_idx < 0:
        padding_idx += weight.shape[0]
    out: torch.Tensor = _Embedding.apply(_own_rows(book, input, weight), weight, book, padding_idx)
    return out


def _is_grid(book: Book, ids: torch.Tensor, weight: nn.Parameter) -> bool:
    """Whether constant ids [T, S, ...] are of no record, as distances between positions are."""
    return ids.dim() > 1 and ids.shape[0] > 1 and book.apart(weight, ids)


def _own_rows(book: Book, ids: torch.Tensor, weight: nn.Parameter) -> torch.Tensor:
    """Ids that all records share, (T) or (1, T) as for positions, repeated for each record: [R, T]."""
    shared = ids.shape[0] == 1 if ids.dim() > 1 else ids.dim() == 0 or book.shares(weight, ids.shape[0])
    if not shared:
        return ids
    return (ids[0] if ids.dim() > 1 else ids).expand(book.records, *ids.shape[1 if ids.dim() > 1 else 0 :])
