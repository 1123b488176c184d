"""A batch of records, as the loader makes it and the model reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Input:
    """One modality of R records; what a record lacks is masked.

    Attributes:
        values: (R, ...), the encoder's input. What it holds where `present` is False reaches no output.
        present: (R, T) bool. T is 1 for a modality that a record has or has not (an image), else one flag a
            token (the words of a note).
    """

    values: torch.Tensor
    present: torch.Tensor

    def __getitem__(self, rows: slice | torch.Tensor) -> Input:
        return Input(self.values[rows], self.present[rows])

    def to(self, device: torch.device) -> Input:
        """This input on another device."""
        return Input(self.values.to(device), self.present.to(device))


@dataclass(frozen=True)
class Batch:
    """R records.

    Attributes:
        inputs: what there is to read, by the name of the modality (`DataConfig.modalities`).
        label: (R,) or (R, L), see `mmmed.tasks.base.Target.labels`.
        unit: (R,) int64, the record's patient within the batch, 0 .. P - 1.
    """

    inputs: Mapping[str, Input]
    label: torch.Tensor
    unit: torch.Tensor

    def __len__(self) -> int:
        return self.label.shape[0]

    def __getitem__(self, rows: slice | torch.Tensor) -> Batch:
        """Some of the records: a slice, or (K,) int64 indices."""
        inputs = {name: one[rows] for name, one in self.inputs.items()}
        return Batch(inputs, self.label[rows], self.unit[rows])

    def to(self, device: torch.device) -> Batch:
        """This batch on another device."""
        inputs = {name: one.to(device) for name, one in self.inputs.items()}
        return Batch(inputs, self.label.to(device), self.unit.to(device))


def parts(
    unit: torch.Tensor, records: int, *, filled: bool = False
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Cut a batch into parts of at most `records` records; units stay whole. A unit that has more is a part of its own.

    Args:
        unit: (R,) int64; a unit's records stand side by side, as the loader puts them.
        filled: whether each part is filled up to a multiple of `records` (`fill`) with copies.

    Yields:
        rows (r + copies,) int64 of the batch, and whose the first r are, (r,) int64. The copies are nobody's.
    """
    ends = [*(torch.nonzero(unit[1:] != unit[:-1])[:, 0] + 1).tolist(), len(unit)]
    start = last = 0
    for end in [*ends, len(unit) + records + 1]:  # after the last, one that fits into no part
        if end - start > records and last > start:
            yield start + fill(last - start, records if filled else 1), unit[start:last]
            start = last
        last = end


def fill(count: int, size: int) -> torch.Tensor:
    """The rows 0 .. count - 1, 1 or more, and then some of them again, up to a multiple of `size`.

    Kernels choose their order of summation by the shapes they are given. With one shape for all, how a record's numbers
    are rounded does not depend on how many others are computed beside it, and so not on who else is there.
    """
    return torch.arange(count + -count % size) % count
