"""Recurrent layers over a note's words, forwards or both ways."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from mmmed.data.batch import Input
from mmmed.models.words import WIDTH, Embedded, Given


class WordLSTM(nn.Module):
    """Tokens (R, T) int64 -> (R, T, width) float: at each word, what the layer holds of the note up to it.

    Backwards a note is read from its own last word, not from the padding behind it.

    Attributes:
        layer: the recurrent layer.
        both: whether a second one reads the note backwards.
    """

    layer: ClassVar[type[nn.LSTM | nn.GRU]] = nn.LSTM
    both: ClassVar[bool] = False

    def __init__(self, given: Given) -> None:
        super().__init__()
        self.width = WIDTH * (2 if self.both else 1)
        self.embedded = Embedded(given)
        self.forwards = self.layer(WIDTH, WIDTH, batch_first=True)
        self.backwards = self.layer(WIDTH, WIDTH, batch_first=True) if self.both else None

    def forward(self, given: Input) -> torch.Tensor:
        words = self.embedded(given)
        held: torch.Tensor = self.forwards(words)[0]
        if self.backwards is None:
            return held
        turned = self.backwards(_turned(words, given.present))[0]
        return torch.cat([held, _turned(turned, given.present)], 2)


def _turned(rows: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """(R, T, d) with each note's words in the reverse order; the padding stays behind them. Twice changes nothing."""
    time = torch.arange(rows.shape[1], device=rows.device)
    source = (present.sum(1, keepdim=True) - 1 - time) % rows.shape[1]
    return rows.gather(1, source[..., None].expand_as(rows))


class WordBiLSTM(WordLSTM):
    both = True


class WordGRU(WordLSTM):
    layer = nn.GRU


class WordBiGRU(WordGRU):
    both = True
