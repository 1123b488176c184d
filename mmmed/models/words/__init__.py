"""Encoders of notes without a transformer. Each is one file here and one line in `mmmed.modalities.text.WORDS`.

All read the pieces of words of the shipped vocabulary, which is built from public text, and are learnt from scratch. A
note is read from its first present token to its last; what is behind it reaches nothing. Those that make one vector of
a note give it at each of its tokens: any fusion then sees that one vector, whether it averages or attends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from mmmed._transformers import PreTrainedTokenizerBase
from mmmed.data.batch import Input
from mmmed.modalities.text import TextModel
from mmmed.models.multimodal import Encoder

__all__ = ["Embedded", "Given", "WordEncoder", "everywhere"]

WIDTH = 32


@dataclass(frozen=True)
class Given:
    """What an encoder of words is built from.

    Attributes:
        tokenizer: of the shipped vocabulary.
        keys: of ``[model]``.
        tokens: of a note that are read.
    """

    tokenizer: PreTrainedTokenizerBase
    keys: TextModel
    tokens: int


class WordEncoder(Protocol):
    """The class of an encoder. It may raise `ModelError`."""

    def __call__(self, given: Given, /) -> Encoder: ...


class Embedded(nn.Module):
    """Tokens (R, T) int64 -> their learnt vectors (R, T, WIDTH) float; zero where nothing is present."""

    def __init__(self, given: Given) -> None:
        super().__init__()
        self.table = nn.Embedding(len(given.tokenizer), WIDTH)
        self.dropout = nn.Dropout(given.keys.text_dropout)

    def forward(self, given: Input) -> torch.Tensor:
        vectors: torch.Tensor = self.dropout(self.table(given.values))
        return vectors * given.present[..., None]


def everywhere(vectors: torch.Tensor, given: Input) -> torch.Tensor:
    """One vector a note, (R, width), at each of its tokens: (R, T, width)."""
    return vectors[:, None].expand(-1, given.present.shape[1], -1)
