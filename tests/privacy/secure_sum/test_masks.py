"""Pads: they cancel exactly over a cohort, and hide everything else."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import random
from fractions import Fraction

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy.secure_sum.masks import ALL_PAIRS, add_masks, degree, mask_key, neighbours
from tests.privacy.secure_sum.federation import names

CONTEXT = hashlib.sha256(b"context").digest()


def pair(one: str, two: str) -> bytes:
    return hashlib.sha256("|".join(sorted([one, two])).encode()).digest()


def masked(
    words: np.ndarray, of: str, cohort: tuple[str, ...], honest: int, context: bytes = CONTEXT
) -> np.ndarray:
    keys = {n: mask_key(pair(of, n), context) for n in neighbours(of, cohort, honest, context)}
    out = words.copy()
    add_masks(out, of, keys)
    return out


@settings(max_examples=40, deadline=None)
@given(
    sites=st.sampled_from([2, 3, 7, 32, 33, 60]),
    d=st.sampled_from([1, 5, 1000, (1 << 15) - 1, (1 << 15) + 1]),
    bits=st.sampled_from([32, 64]),
    seed=st.integers(0, 2**32),
)
def test_the_sum_of_random_vectors_is_exact(sites: int, d: int, bits: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cohort, kind = names(sites), f"<u{bits // 8}"
    words = {n: np.frombuffer(rng.bytes(d * bits // 8), kind) for n in cohort}
    total, plain = np.zeros(d, kind), np.zeros(d, kind)
    for n in cohort:
        total += masked(words[n], n, cohort, max(1, 3 * sites // 4))
        plain += words[n]
    assert np.array_equal(total, plain)


def test_a_part_of_the_cohort_shows_nothing_but_uniform_words() -> None:
    cohort = names(4)
    for some in itertools.chain(*(itertools.combinations(cohort, r) for r in (1, 2, 3))):
        total = sum(
            (masked(np.zeros(50_000, np.uint64), n, cohort, 3) for n in some), np.zeros(50_000, np.uint64)
        )
        assert stats.chisquare(np.bincount(total >> np.uint64(56), minlength=256)).pvalue > 1e-6
        assert stats.chisquare(np.bincount(total & np.uint64(255), minlength=256)).pvalue > 1e-6


def test_pads_of_two_contexts_or_pairs_have_nothing_in_common() -> None:
    keys = {mask_key(pair(*p), c) for p in itertools.combinations(names(4), 2) for c in (CONTEXT, bytes(32))}
    assert len(keys) == 12
    zeros = np.zeros(10_000, np.uint64)
    one, two = (masked(zeros, "site-000", names(4), 3, c) for c in (CONTEXT, bytes(32)))
    assert not np.any(one == two)


def test_a_pad_is_aes_256_in_counter_mode_under_hkdf() -> None:
    # From RFC 5869 and the block cipher alone: a change means that old and new sites cannot take part in one run.
    info = b"mmmed secure sum: mask 1\0" + CONTEXT + b"\1"
    block = Cipher(algorithms.AES(hmac.digest(bytes(32), info, "sha256")), modes.ECB()).encryptor()
    expected = b"".join(block.update(counter.to_bytes(16, "big")) for counter in range(2))
    words = np.zeros(4, "<u8")
    add_masks(words, "a", {"b": mask_key(bytes(32), CONTEXT)})
    assert words.tobytes() == expected
    add_masks(words, "b", {"a": mask_key(bytes(32), CONTEXT)})
    assert not words.any()


@pytest.mark.parametrize("sites", [2, 16, ALL_PAIRS])
def test_small_cohorts_share_pads_all_with_all(sites: int) -> None:
    for n in names(sites):
        assert neighbours(n, names(sites), 1, CONTEXT) == [o for o in names(sites) if o != n]


@pytest.mark.parametrize(
    ("sites", "honest"), [(33, 25), (40, 30), (100, 75), (333, 250), (100, 20), (33, 1), (50, 50)]
)
def test_larger_cohorts_have_an_even_symmetric_graph_of_the_least_degree(sites: int, honest: int) -> None:
    cohort, k = names(sites), degree(sites, honest)
    graph = {n: neighbours(n, cohort, honest, CONTEXT) for n in cohort}
    for n, others in graph.items():
        assert len(others) == len(set(others)) == k
        assert n not in others
        assert all(n in graph[o] for o in others)

    def bound(degree: int) -> Fraction:
        chance, c = Fraction(sites * sites, 2), sites - honest
        for i in range(degree):
            chance *= Fraction(max(c - i, 0), sites - i)
        return chance

    assert k == sites - 1 or bound(k) <= Fraction(1, 2**100) < bound(k - 2)


def test_the_degree_grows_slowly() -> None:
    assert degree(1000, 750) < 70
    assert degree(10_000, 7_500) < 70
    assert degree(40, 30) == 12  # more neighbours than colluders: certain


def connected(members: set[str], graph: dict[str, list[str]]) -> bool:
    seen, todo = set(), [min(members)]
    while todo:
        n = todo.pop()
        if n not in seen:
            seen.add(n)
            todo += [o for o in graph[n] if o in members]
    return seen == members


def test_colluders_do_not_take_the_honest_apart() -> None:
    rng = random.Random(0)
    cohort, honest = names(100), 60
    for trial in range(30):
        context = hashlib.sha256(bytes([trial])).digest()
        graph = {n: neighbours(n, cohort, honest, context) for n in cohort}
        assert connected(set(rng.sample(cohort, honest)), graph)


def test_what_takes_a_ring_apart_is_two_runs_of_colluders_and_nothing_less() -> None:
    # The combinatorial step of the proof, checked over all choices of colluders on a small ring.
    sites, k = 12, 4
    ring = list(range(sites))
    graph = {str(i): [str((i + a) % sites) for a in (-2, -1, 1, 2)] for i in ring}
    for colluders in range(sites - 1):
        for gone in itertools.combinations(ring, colluders):
            runs, left = 0, [i for i in ring if i not in gone]
            for here, then in zip(left, [*left[1:], left[0] + sites], strict=True):
                runs += then - here - 1 >= k // 2
            assert connected({str(i) for i in left}, graph) == (runs < 2 or len(left) == 1)


def test_the_ring_follows_the_context() -> None:
    cohort = names(64)
    assert neighbours(cohort[0], cohort, 48, CONTEXT) != neighbours(cohort[0], cohort, 48, bytes(32))
