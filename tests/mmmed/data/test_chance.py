"""A record's numbers: uniform, and nobody else's."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mmmed.data.chance import UNIFORMS, record_key, uniforms

N = 4000


def test_the_numbers_are_uniform_and_independent() -> None:
    drawn = uniforms("seed 0, step 0: choice", [record_key("A", n) for n in range(N)])
    assert drawn.shape == (N, UNIFORMS) and drawn.min() >= 0 and drawn.max() < 1
    counts = np.stack([np.histogram(column, 16, (0, 1))[0] for column in drawn.T])
    # 15 degrees of freedom: a column exceeds 60 once in four million
    assert (((counts - N / 16) ** 2).sum(1) / (N / 16)).max() < 60
    rows = np.concatenate([drawn[:-1], drawn[1:]], axis=1)
    correlation = np.corrcoef(rows.T) - np.eye(2 * UNIFORMS)
    assert np.abs(correlation).max() < 5.5 / np.sqrt(N)


def test_a_number_is_of_its_purpose_and_its_record_alone() -> None:
    keys = [record_key(name, number) for name in ("A", "B", "A1", "1") for number in (0, 1, 11)]
    assert len(set(keys)) == len(keys) and record_key("1 A", 1) != record_key("A", 11)
    together = uniforms("p", keys)
    assert np.array_equal(together[[3]], uniforms("p", keys[3:4]))
    assert np.array_equal(together[::-1], uniforms("p", keys[::-1]))
    assert len(np.unique(np.concatenate([together, uniforms("q", keys)]))) == 2 * len(keys) * UNIFORMS
    assert uniforms("p", []).shape == (0, UNIFORMS)


@given(st.text(), st.integers(0, 10**6), st.text(), st.integers(0, 10**6))
def test_two_records_have_two_names(a: str, m: int, b: str, n: int) -> None:
    assert (record_key(a, m) == record_key(b, n)) == ((a, m) == (b, n))
