"""Bag of words, and the same weighted by inverse document frequencies of public text (TF-IDF).

Nothing is counted over a site's notes: a vocabulary or frequencies learnt from them would be private data outside the
accounting, and other ones at each site.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from mmmed.data.batch import Input
from mmmed.errors import ModelError
from mmmed.models.words import WIDTH, Given, everywhere

_BUCKETS = 2048  # of pairs
# Carter & Wegman 1979: (a x + b y) mod p, of numbers below 2^20 in 63 bits
_PRIME, _FIRST, _SECOND = (1 << 31) - 1, 1_103_515_245, 805_306_457


class BagOfWords(nn.Module):
    """Tokens (R, T) int64 -> (R, T, width) float: one linear layer on how often which piece of a word occurs.

    The pieces of the vocabulary have a number each; pairs of neighbours ("no lesion") are hashed into 2048 (Weinberger
    et al. 2009, arXiv 0902.2206). A count n > 0 becomes 1 + log n, times the inverse document frequency if there is
    one; a note's counts have the length 1.
    """

    def __init__(self, given: Given) -> None:
        super().__init__()
        self.width = WIDTH
        self.words = len(given.tokenizer)
        self.special = nn.Buffer(torch.tensor(given.tokenizer.all_special_ids), persistent=False)
        self.linear = nn.Linear(self.words + _BUCKETS, WIDTH)

    def forward(self, given: Input) -> torch.Tensor:
        return everywhere(F.gelu(self.linear(self.weighted(self.counts(given)))), given)

    def counts(self, given: Input) -> torch.Tensor:
        """(R, words + buckets) float: how often each piece and each hashed pair occurs."""
        tokens = given.values
        special = (tokens[..., None] == self.special).any(2)  # torch.isin, which ONNX does not know
        there = given.present & ~special
        first, second = tokens[:, :-1], tokens[:, 1:]
        pairs = self.words + (_FIRST * first + _SECOND * second) % _PRIME % _BUCKETS
        places = torch.cat([tokens, pairs], 1)
        seen = torch.cat([there, there[:, :-1] & there[:, 1:]], 1).to(self.linear.weight.dtype)
        return seen.new_zeros(len(tokens), self.linear.in_features).scatter_add(1, places, seen)

    def weighted(self, counts: torch.Tensor) -> torch.Tensor:
        """Counts as the linear layer reads them, of length 1, or 0 where there are none."""
        return F.normalize(torch.where(counts > 0, 1 + counts.clamp(min=1).log(), 0.0), dim=1)


class TfIdf(BagOfWords):
    """The same with log((1 + n) / (1 + n_w)) + 1 for each w, of n public notes of which n_w hold it.

    Raises:
        ModelError: the file of public text cannot be read, or holds none.
    """

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        self.frequencies = nn.Buffer(self._from(given))  # compared between sites, as weights are

    def _from(self, given: Given) -> torch.Tensor:
        path = Path(given.keys.text_public)
        try:
            notes = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(
                f"model.text_public: {path} cannot be read ({error}). Expected public text in UTF-8, one note a line"
            ) from error
        if not notes:
            raise ModelError(f"model.text_public: {path} holds no text. Expected one public note a line")
        holding = torch.zeros(self.linear.in_features)
        for start in range(0, len(notes), 1024):
            read = given.tokenizer(
                notes[start : start + 1024],
                padding="max_length",
                truncation=True,
                max_length=given.tokens,
                return_tensors="pt",
            )
            holding += (self.counts(Input(read["input_ids"], read["attention_mask"].bool())) > 0).sum(0)
        return ((1 + len(notes)) / (1 + holding)).log() + 1

    def weighted(self, counts: torch.Tensor) -> torch.Tensor:
        return F.normalize(super().weighted(counts) * self.frequencies, dim=1)
