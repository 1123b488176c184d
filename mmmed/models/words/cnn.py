"""Convolutions over a note's words."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from mmmed.data.batch import Input
from mmmed.models.words import WIDTH, Embedded, Given, everywhere

_KERNELS = (1, 3, 5)


class WordCNN(nn.Module):
    """Tokens (R, T) int64 -> (R, T, width) float: how strongly each phrase is met anywhere in the note.

    Convolutions of 1, 3 and 5 words and the maximum over the note (as Kim 2014, arXiv 1408.5882).
    """

    def __init__(self, given: Given) -> None:
        super().__init__()
        self.width = len(_KERNELS) * WIDTH
        self.embedded = Embedded(given)
        self.phrases = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, size, padding="same") for size in _KERNELS)

    def forward(self, given: Input) -> torch.Tensor:
        words = self.embedded(given).transpose(1, 2)  # [r, width, t]
        met = torch.cat([F.relu(phrase(words)) for phrase in self.phrases], 1)
        return everywhere((met * given.present[:, None]).amax(2), given)  # none is below 0
