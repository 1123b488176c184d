"""One modality of a site's records, ready for random access, and such as are made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from mmmed.data.batch import Input

_MISSING = 0.125  # share of what a made-up record could have and lacks


class Rows(Protocol):
    """Tensors by number: (K,) int64 -> (K, ...). A tensor, or a part of the cache."""

    def __getitem__(self, rows: np.ndarray, /) -> torch.Tensor: ...


@dataclass(frozen=True)
class Stored:
    """One modality of N records.

    Attributes:
        values: their values.
        present: (N, T) bool, see `Input`.
        fixed_views: 0 if training may make any view of a record when it is used; else how many views of each record
            `values` holds: row v N + i is view v of record i, and view 0 the record itself.
    """

    values: Rows
    present: torch.Tensor
    fixed_views: int = 0

    def __getitem__(self, rows: np.ndarray) -> Input:
        """The records `rows` (K,) int64."""
        return Input(self.values[rows], self.present[torch.from_numpy(rows)])

    def view(self, rows: np.ndarray, view: np.ndarray) -> Input:
        """View `view` (K,) int64 of the records `rows` (K,) int64, where views are fixed; else the records."""
        if self.fixed_views == 0:
            return self[rows]
        row = rows + view % self.fixed_views * len(self.present)
        return Input(self.values[row], self.present[torch.from_numpy(rows)])


def some(total: int, rng: np.random.Generator) -> np.ndarray:
    """(total,) bool, which made-up records have something: the first, not the second, most of the others."""
    there = rng.random(total) >= _MISSING
    there[:1], there[1:2] = True, False
    return there


class SideBySide:
    """Rows (C, *shape) of several, as one (C, M, *shape) each."""

    def __init__(self, each: Sequence[Rows]) -> None:
        self._each = each

    def __getitem__(self, rows: np.ndarray) -> torch.Tensor:
        return torch.stack([one[rows] for one in self._each], dim=2)


class DrawnRows:
    """Rows of (*shape) float32 in [0, 1] as a file's cache gives them, each of its own contrast; zeros where absent.

    They are never kept: a row is drawn from its own number whenever it is asked for, so that volumes take no more
    memory than the batch that they are in.
    """

    def __init__(self, shape: tuple[int, ...], present: np.ndarray, seed: int) -> None:
        self._shape, self._present, self._seed = shape, present, seed

    def __getitem__(self, rows: np.ndarray) -> torch.Tensor:
        values = np.zeros((len(rows), *self._shape), dtype=np.float32)
        for value, row in zip(values, rows, strict=True):
            if self._present[row]:
                rng = np.random.default_rng((self._seed, int(row)))
                low, high = rng.random(2, dtype=np.float32)
                value[...] = low + (high - low) * rng.random(self._shape, dtype=np.float32)
        return torch.from_numpy(values)
