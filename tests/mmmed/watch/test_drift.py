"""Drift against slow versions that follow the equation, and intervals against others' numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from mmmed.watch.drift import FEWEST, difference, share, stability


def slow_index(counts: list[tuple[int, int]]) -> float:
    """The equation, cell by cell, half a study more in each."""
    n, m, cells = sum(a for a, _ in counts), sum(e for _, e in counts), len(counts)
    total = 0.0
    for a, e in counts:
        before, after = (a + 0.5) / (n + 0.5 * cells), (e + 0.5) / (m + 0.5 * cells)
        total += (after - before) * math.log(after / before)
    return total


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from("abcd"), min_size=20, max_size=60),
    st.lists(st.sampled_from("bcde"), min_size=20),
)
def test_the_index_of_a_category_is_the_equations(before: list[str], now: list[str]) -> None:
    found = stability(before, now)
    names = sorted({*before, *now})  # also those that are new, and those that are gone
    assert found.index == pytest.approx(slow_index([(before.count(n), now.count(n)) for n in names]))
    assert [cell[0] for cell in found.cells] == names


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.3, 2.0]), st.sampled_from([1, 2, 8]))
def test_the_index_of_a_number_counts_every_study_in_one_cell(seed: int, moved: float, places: int) -> None:
    rng = np.random.default_rng(seed)
    before, now = rng.normal(0, 1, 60).round(places), rng.normal(moved, 1, 45).round(places)
    found = stability(before.tolist(), now.tolist())
    bounds = [sorted(before.tolist())[(60 - 1) * k // 10] for k in range(1, 10)]
    own = {b for b in bounds if bounds.count(b) > 1}
    ends = sorted(set(bounds))

    def cell(value: float) -> tuple[float, bool]:  # its lower end, and whether it is that very value of many
        below = max((end for end in ends if end <= value), default=-math.inf)
        return below, value == below and below in own

    names = {cell(v) for v in [*before, *now]}
    counts = [(sum(cell(v) == n for v in before), sum(cell(v) == n for v in now)) for n in names]
    assert found.index == pytest.approx(slow_index(counts))
    for side in (1, 2):
        assert sum(one[side] for one in found.cells) == pytest.approx(1)


def test_nothing_moves_where_nothing_moved_and_a_shift_is_seen() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(size=500).tolist()
    assert stability(before, before).index == pytest.approx(0)
    assert stability(before, rng.normal(size=500).tolist()).verdict == "stable"
    assert stability(before, rng.normal(1.5, size=500).tolist()).verdict == "SHIFTED"


@pytest.mark.parametrize("now", [0.3, 0.7], ids=["below", "above"])
def test_a_score_that_was_constant_is_seen_to_leave_its_value(now: float) -> None:
    assert stability([0.5] * 40, [0.5] * 40).index == pytest.approx(0)
    assert stability([0.5] * 40, [now] * 40).verdict == "SHIFTED"


def test_chance_alone_does_not_alarm_and_tiny_numbers_say_nothing() -> None:
    assert stability([0.1] * 99, [0.2] * (FEWEST - 1)).verdict == "too few"
    assert stability([], []).index is None
    rng = np.random.default_rng(1)
    alarms = [
        stability(rng.normal(size=FEWEST).tolist(), rng.normal(size=FEWEST).tolist()) for _ in range(300)
    ]
    assert np.mean([one.index > 0.25 for one in alarms]) > 0.5  # by the customary bound alone
    assert np.mean([one.verdict != "stable" for one in alarms]) < 0.03


@pytest.mark.parametrize(("yes", "total"), [(0, 1), (0, 20), (7, 9), (12, 12)])
def test_shares_have_wilsons_interval(yes: int, total: int) -> None:
    told = binomtest(yes, total).proportion_ci(method="wilson")
    assert share(yes, total) == pytest.approx((yes / total, told.low, told.high), abs=1e-7)
    assert all(map(math.isnan, share(0, 0)))


def test_differences_have_newcombes_interval() -> None:
    assert difference(56, 70, 48, 80) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)  # his table II (a)
    assert difference(9, 10, 3, 10) == pytest.approx((0.6, 0.1705, 0.8090), abs=5e-5)  # (b)
