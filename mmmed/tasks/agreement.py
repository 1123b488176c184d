"""How far a written text agrees with the true one. Texts are compared word by word, without case and punctuation."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

ORDERS = 4  # of the n-grams of BLEU


def words_of(text: str) -> tuple[str, ...]:
    """The words and numbers of a text, in lower case."""
    return tuple(re.findall(r"\w+(?:[.,]\d+)*", text.lower()))


def rouge_l(written: tuple[str, ...], true: tuple[str, ...]) -> float:
    """ROUGE-L: F1 of the longest common subsequence of words (Lin 2004, section 3). Of two empty texts 1."""
    if not written or not true:
        return float(written == true)
    before = [0] * (len(true) + 1)
    for word in written:
        row = [0]
        for column, other in enumerate(true):
            row.append(before[column] + 1 if word == other else max(row[-1], before[column + 1]))
        before = row
    return 2 * before[-1] / (len(written) + len(true))


def bleu_counts(written: tuple[str, ...], true: tuple[str, ...]) -> np.ndarray:
    """(3 ORDERS,) float64, which add up over texts: by n the n-grams that agree, those written, those of the truth."""
    counts = np.zeros((3, ORDERS))
    for n in range(1, ORDERS + 1):
        own, others = (
            Counter(zip(*(text[start:] for start in range(n)), strict=False)) for text in (written, true)
        )
        counts[:, n - 1] = (own & others).total(), own.total(), others.total()
    return counts.ravel()


def bleu(counts: np.ndarray) -> float:
    """Corpus BLEU (Papineni et al. 2002, equation 3) from the sum of `bleu_counts` over texts; NaN without a word.

    The orders are those that some true text is long enough for, 4 at most: an answer of one word has no pair of words.
    """
    agree, written, true = counts.reshape(3, ORDERS)
    orders = true > 0
    if not orders.any():
        return float("nan")
    if not agree[orders].all():
        return 0.0
    brevity = min(0.0, 1 - true[0] / written[0])
    return float(np.exp(brevity + np.log(agree[orders] / written[orders]).mean()))
