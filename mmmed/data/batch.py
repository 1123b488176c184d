"""A batch of records, as the loader makes it and the model reads it."""

from __future__ import annotations

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

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})
