"""A batch of records, as the loader makes it and the model reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Batch:
    """R records; a missing modality is zeros with its `has_` flag False.

    Attributes:
        image: (R, C, H, W) float32 in [0, 1].
        has_image: (R,) bool.
        tokens: (R, T) int64 token ids.
        token_mask: (R, T) bool, True where a token is not padding.
        has_text: (R,) bool.
        label: (R,) int64 class index.
        unit: (R,) int64, the record's patient within the batch, 0 .. P - 1.
    """

    image: torch.Tensor
    has_image: torch.Tensor
    tokens: torch.Tensor
    token_mask: torch.Tensor
    has_text: torch.Tensor
    label: torch.Tensor
    unit: torch.Tensor

    def __len__(self) -> int:
        return self.label.shape[0]

    def parts(self, records: int) -> Iterator[Batch]:
        """The batch in parts of at most `records` records, or of one unit that has more; units stay whole."""
        for part in part_slices(self.unit, records):
            yield replace(self, **{name: value[part] for name, value in vars(self).items()})

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})


def part_slices(unit: torch.Tensor, records: int) -> Iterator[slice]:
    """Where to cut a batch with units `unit` (R,) into parts of at most `records` records; units stay whole.

    A unit's records must stand side by side, as the loader puts them. A unit with more records is one part.
    """
    ends = [*(torch.nonzero(unit[1:] != unit[:-1])[:, 0] + 1).tolist(), len(unit)]
    start = last = 0
    for end in ends:
        if end - start > records and last > start:
            yield slice(start, last)
            start = last
        last = end
    if last > start:
        yield slice(start, last)
