"""Public randomness that no two records share: each number is a function of what it is for and of one record.

A generator that a batch draws from in turn ties its patients together: one more patient, or one more record of one,
shifts the numbers of everybody after, in this step and in all later ones. Their clipped gradients then all move, the
sum by far more than the clipping norm, and no accounting holds. So nothing is drawn in turn here. A record's numbers
are looked up by its patient, its place among that patient's own records, and public numbers (seed, round, step): who
else is in the batch, or at the site, cannot change them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

UNIFORMS = 16  # of a record for one purpose: a digest of BLAKE2b in words of 32 bits


def record_key(patient: str, number: int) -> bytes:
    """The name (32 bytes) of a patient's record: `number` counts among the patient's own records alone."""
    return hashlib.blake2b(f"{number} {patient}".encode(), digest_size=32).digest()


def uniforms(purpose: str, records: Iterable[bytes]) -> np.ndarray:
    """Numbers in [0, 1) of each of K records (`record_key`, or other names of one record each).

    BLAKE2b, keyed by the record, of the purpose: the counter mode of a generator whose counter is what the numbers
    are for. Another purpose or record gives independent numbers.

    Args:
        purpose: everything else that the numbers depend on, all of it public.
        records: K names of at most 64 bytes.

    Returns:
        float64 [K, UNIFORMS].
    """
    text = purpose.encode()
    words = b"".join(hashlib.blake2b(text, key=name).digest() for name in records)
    return np.frombuffer(words, "<u4").reshape(-1, UNIFORMS) / 2.0**32
