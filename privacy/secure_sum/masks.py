"""One-time pads between pairs of sites, which cancel in the sum over the cohort.

Of two neighbours the one whose name sorts first adds the pad and the other subtracts it. A pad's key follows from
what the two share and from the request's context (run, keys, step, attempt, cohort, model): where views differ the
pads differ and stay standing. One context, one vector: two under one pad would show their difference.

*Which pairs*. Up to 32 sites all. Beyond, each has k neighbours (Bell, Bonawitz, Gascon, Lepoint, Raykova 2020,
"Secure single-server aggregation with (poly)logarithmic overhead"): the cohort is put on a ring in an order that
hashes give, and neighbours are those at most k/2 places apart. What colluders can take apart are the connected parts
of the graph that is left without them. On a ring it falls apart only if two runs of k/2 or more consecutive
places are all colluders'. There are fewer than K^2 / 2 pairs of runs, and k given places all go to c colluders of
K with probability c (c-1) ... (c-k+1) / (K (K-1) ... (K-k+1)), which is 0 if k > c. With c = K - h the degree is
the least even k for which the product of the two is at most 2^-100: 2^60 trials by the server, for a context whose
order suits it, leave 2^-40.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

_MASK_LABEL = b"mmmed secure sum: mask 1\0"
_RING_LABEL = b"mmmed secure sum: ring 1\0"
ALL_PAIRS = 32  # sites of a cohort up to which every two share a pad
_FAILURE = Fraction(1, 1 << 100)
_PIECE = 1 << 15  # words of keystream at a time: a whole one costs nine times as much


def degree(sites: int, honest: int) -> int:
    """How many neighbours each site of a cohort has, of whom any `sites - honest` may collude."""
    if sites <= ALL_PAIRS:
        return sites - 1
    colluders = sites - honest
    chance = Fraction(sites * sites, 2)
    for k in range(1, sites):
        chance *= Fraction(max(colluders - k + 1, 0), sites - k + 1)
        if k % 2 == 0 and chance <= _FAILURE:
            return k
    return sites - 1


def neighbours(name: str, cohort: Sequence[str], honest: int, context: bytes) -> list[str]:
    """The sites of the cohort with which a site shares a pad, sorted; never the site itself.

    The ring of Bell et al. 2020, see the module's text.

    Args:
        name: the site, one of the cohort.
        cohort: names of all sites of the attempt.
        honest: sites of the cohort that are relied upon not to collude.
        context: 32 bytes of the attempt (`Request.context`), which fix the order on the ring.
    """
    k = degree(len(cohort), honest)
    if k == len(cohort) - 1:
        return [other for other in cohort if other != name]
    ring = sorted(cohort, key=lambda one: hashlib.sha256(_RING_LABEL + context + one.encode()).digest())
    place = ring.index(name)
    return sorted(ring[(place + away) % len(ring)] for away in range(-(k // 2), k // 2 + 1) if away)


def mask_key(pair: bytes, context: bytes) -> bytes:
    """The key of one pad, 32 bytes (HKDF-Expand, RFC 5869)."""
    return HKDFExpand(algorithm=hashes.SHA256(), length=32, info=_MASK_LABEL + context).derive(pair)


def add_masks(words: np.ndarray, name: str, keys: Mapping[str, bytes]) -> None:
    """Add the pad of each neighbour, in place, modulo the word.

    Args:
        words: unsigned words [d], contiguous.
        name: whose words they are.
        keys: neighbour -> the key of their pad.
    """
    for other, key in keys.items():
        combine = np.add if name < other else np.subtract
        for part, pad in _pad(words, key):
            combine(part, pad, out=part)


def _pad(words: np.ndarray, key: bytes) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Consecutive parts of `words`, each with as much of the AES-256-CTR keystream, to be used before the next."""
    stream = Cipher(
        algorithms.AES(key), modes.CTR(bytes(16))
    ).encryptor()  # one key, one pad: it may start at 0
    size = min(_PIECE, len(words))
    zeros = bytes(size * words.itemsize)
    out = bytearray(len(zeros) + 16)  # the cipher wants room for a block
    pad = np.frombuffer(out, words.dtype, size)
    for start in range(0, len(words), size):
        stream.update_into(zeros, out)
        part = words[start : start + size]
        yield part, pad[: len(part)]
