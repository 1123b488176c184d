"""Which records of a batch belong to which unit of privacy."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import torch

from privacy.errors import StepError


@dataclass(frozen=True)
class Units:
    """The R records of a batch and the P units (patients) they belong to.

    Attributes:
        index: int64 [R], each record's unit in 0..P-1.
        sizes: int64 [P], how many records each unit has, all at least 1.
    """

    index: torch.Tensor
    sizes: torch.Tensor

    @classmethod
    def of(cls, ids: torch.Tensor) -> Units:
        """Number the units of any integer ids [R], one for each record.

        Raises:
            StepError: `ids` is not a vector of integers.
        """
        if ids.dim() != 1 or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise StepError(f"units must be integers of shape [R]. Found {ids.dtype} {tuple(ids.shape)}.")
        _, index, sizes = torch.unique(ids, return_inverse=True, return_counts=True)
        return cls(index, sizes)

    def and_others(self, count: int) -> Units:
        """These units, followed by `count` more units of one record each."""
        index = torch.cat([self.index, self.count + torch.arange(count).to(self.index)])
        return Units(index, torch.cat([self.sizes, torch.ones(count).to(self.sizes)]))

    @property
    def records(self) -> int:
        return self.index.numel()

    @property
    def count(self) -> int:
        return self.sizes.numel()

    @functools.cached_property
    def order(self) -> torch.Tensor | None:
        """A permutation [R] that makes every unit's records contiguous; None if they are."""
        if bool((self.index[1:] >= self.index[:-1]).all()):
            return None
        return torch.argsort(self.index, stable=True)

    @functools.cached_property
    def bounds(self) -> list[int]:
        """P + 1 numbers: unit u has records bounds[u]:bounds[u+1] once the records are ordered."""
        return [0, *torch.cumsum(self.sizes, 0).tolist()]

    @functools.cached_property
    def even(self) -> int | None:
        """The number of records of every unit, if all have the same."""
        sizes = self.sizes.tolist()
        return sizes[0] if sizes and min(sizes) == max(sizes) else None

    def part(self, first: int, last: int) -> tuple[Units, slice]:
        """Units first..last-1 of ordered records, renumbered from 0, and the slice of their records."""
        last = min(last, self.count)
        rows = slice(self.bounds[first], self.bounds[last])
        return Units(self.index[rows] - first, self.sizes[first:last]), rows

    def spans(self) -> list[slice]:
        """The slice of each unit's records, once the records are ordered."""
        return [slice(a, b) for a, b in itertools.pairwise(self.bounds)]

    def alike(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Units of equally many records, int64 [p], and those records unit by unit, int64 [p k], once ordered."""
        starts = torch.cumsum(self.sizes, 0) - self.sizes
        found = []
        for size in self.sizes.unique():
            which = torch.nonzero(self.sizes == size)[:, 0]
            found.append((which, (starts[which, None] + torch.arange(int(size)).to(starts)).flatten()))
        return found

    def weights(self, like: torch.Tensor) -> torch.Tensor:
        """1 / k_u for each record [R]: the sum of a unit's weighted losses is their mean."""
        return (1.0 / self.sizes.to(like.dtype))[self.index].to(like.device)

    def sum(self, rows: torch.Tensor) -> torch.Tensor:
        """Sum rows [R, ...] over the records of each unit: [P, ...]."""
        if self.records == self.count and self.order is None:
            return rows
        out = rows.new_zeros(self.count, *rows.shape[1:])
        return out.index_add_(0, self.index.to(rows.device), rows)
