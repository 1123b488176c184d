"""The mean of a note's word vectors."""

from __future__ import annotations

import torch
from torch import nn

from mmmed.data.batch import Input
from mmmed.models.multimodal import masked_mean
from mmmed.models.words import WIDTH, Embedded, Given, everywhere


class WordMean(nn.Module):
    """Tokens (R, T) int64 -> (R, T, width) float: the mean of the note's learnt vectors.

    As in fastText (Joulin et al. 2017, arXiv 1607.01759).
    """

    def __init__(self, given: Given) -> None:
        super().__init__()
        self.width = WIDTH
        self.embedded = Embedded(given)

    def forward(self, given: Input) -> torch.Tensor:
        return everywhere(masked_mean(self.embedded(given), given.present)[:, 0], given)
