"""What tasks have in common whose answer is a text."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from mmmed.data.cells import Problem, rows_of, text_of
from mmmed.models.decoder import spelling
from mmmed.tasks import Text
from mmmed.tasks.agreement import ORDERS, bleu, bleu_counts, rouge_l, words_of
from mmmed.tasks.base import Score, Target

_KEPT = 1 << 16  # comparisons of two texts: an interval asks for each a thousand times
_LEAST = 1e-3  # from which agreement has a logarithm


class TextTarget(Target):
    """A text of at most t tokens. Label, int64, and prediction are the numbers of its tokens, K = t.

    After the end of a text stands the end again (`mmmed.models.decoder.Spelling`). The model gives the log-odds of each
    token, (R, t v); a prediction is the tokens of the highest.
    """

    rouge: ClassVar[Score] = Score("rouge_l", "ROUGE-L", higher=True)
    exact: ClassVar[Score] = Score("exact_match", "exact match", higher=True)

    def __init__(self, section: Text) -> None:
        self._column, self._length = section.label, section.tokens
        self._spelling = spelling(section.decoder_model)
        self._compared = lru_cache(_KEPT)(self._compare)

    @property
    def words(self) -> str:
        return f"{self._column}: a text of at most {self._length} tokens"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{self._column} token {number}" for number in range(self._length))

    def as_table(self, predictions: np.ndarray) -> dict[str, np.ndarray]:
        """One column, the texts."""
        return {self._column: np.array(self._spelling.decode(predictions), dtype=object)}

    @property
    def groups(self) -> tuple[str, ...]:
        return (f"{self._column}: any text",)

    # ---------------------------------------------------------------- labels

    def labels(self, cells: pd.DataFrame, path: Path, problem: Problem) -> pd.DataFrame:
        """The tokens of each cell; a text without one that the tokenizer knows is a problem, and left out."""
        texts = cells[self._column].map(text_of)
        tokens = self._spelling.encode(list(texts), self._length)
        labels = pd.DataFrame(tokens, index=cells.index)
        empty = pd.Series(tokens[:, 0] == self._spelling.end, index=cells.index)
        if empty.any():
            problem(
                f"{path}: column '{self._column}' has no word that the decoder's tokenizer knows in {rows_of(empty)}. "
                "Correct it, or empty the cell: a record without a text is left out"
            )
        return labels[~empty]

    def made_up(self, count: int) -> torch.Tensor:
        """Texts of every length, the first as long as one may be and without an end, with the highest token."""
        spelt, row = self._spelling, torch.arange(count)[:, None]
        place = torch.arange(self._length)
        tokens = (spelt.size - 1 - 7 * row - 11 * place) % spelt.size
        tokens = torch.where(tokens == spelt.end, (spelt.end + 1) % spelt.size, tokens)
        return torch.where((place > 0) & (place >= self._length - row % self._length), spelt.end, tokens)

    def group_of(self, labels: np.ndarray) -> np.ndarray:
        return np.zeros(len(labels), dtype=np.int64)

    # ---------------------------------------------------------------- model

    @property
    def outputs(self) -> int:
        return self._length * self._spelling.size

    def losses(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(R, t v) and (R, t) int64 -> (R,): the mean cross-entropy of a text's own tokens, its end included."""
        logits = outputs.view(*labels.shape, self._spelling.size)
        each = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")  # [r, t]
        ends = (labels == self._spelling.end).long().cumsum(1)
        own = (ends == 0) | ((ends == 1) & (labels == self._spelling.end))
        return torch.where(own, each, 0.0).sum(1) / own.sum(1)

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.view(len(outputs), self._length, -1).argmax(2).to(outputs.dtype)

    # ---------------------------------------------------------------- results

    def scores(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """ROUGE-L and exact match, the means over records, and BLEU of all."""
        rouge, exact, bleu_of, _ = self._parts(predictions, labels)
        return {
            self.rouge.name: float(rouge.mean()),
            self.exact.name: float(exact.mean()),
            "bleu": bleu(bleu_of.sum(0)),
        }

    def evidence(self, predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The main score of each record, and what it would be of the true text."""
        rouge, exact, _, _ = self._parts(predictions, labels)
        agreement = (rouge if self.score is self.rouge else exact)[:, None]
        return agreement, np.ones_like(agreement)

    def guess(self, labels: np.ndarray) -> np.ndarray:
        """The most frequent text."""
        texts, counts = np.unique(labels, axis=0, return_counts=True)
        most: np.ndarray = texts[counts.argmax()].astype(np.float64)
        return most

    def confidences(self, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """log(a / (1 - a)) of the agreement a, ROUGE-L."""
        agreement = np.clip(self._parts(predictions, labels)[0], _LEAST, 1 - _LEAST)
        logits: np.ndarray = np.log(agreement / (1 - agreement))
        return logits

    def compared_further(self, written: str, true: str) -> tuple[float, ...]:
        """Numbers of one record that a task compares beside its words; here none."""
        return ()

    def _parts(
        self, predictions: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """ROUGE-L, (N,), exact match, (N,), `bleu_counts`, (N, 3 ORDERS), and `compared_further`, (N, F)."""
        written, true = (np.ascontiguousarray(one, dtype=np.int32) for one in (predictions, labels))
        rows = [self._compared(a.tobytes(), b.tobytes()) for a, b in zip(written, true, strict=True)]
        parts = np.array(rows, dtype=np.float64).reshape(len(rows), -1)
        return parts[:, 0], parts[:, 1], parts[:, 2 : 2 + 3 * ORDERS], parts[:, 2 + 3 * ORDERS :]

    def _compare(self, written: bytes, true: bytes) -> tuple[float, ...]:
        tokens = np.stack([np.frombuffer(one, dtype=np.int32) for one in (written, true)])
        texts = self._spelling.decode(tokens)
        own, other = map(words_of, texts)
        further = self.compared_further(*texts)
        return (rouge_l(own, other), float(own == other), *bleu_counts(own, other), *further)
