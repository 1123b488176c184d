"""The encoder of the toy modality."""

from __future__ import annotations

import torch
from torch import nn

from mmmed.data.batch import Input


class SignalEncoder(nn.Module):
    """Samples (R, 2) -> one token (R, 1, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.linear = nn.Linear(2, width)

    def forward(self, given: Input) -> torch.Tensor:
        return torch.tanh(self.linear(given.values))[:, None]
