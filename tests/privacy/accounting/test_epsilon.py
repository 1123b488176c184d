"""Epsilon against closed forms, brute force and two other accountants; never below the truth."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from privacy.accounting import (
    Adjacency,
    DpSgdEvent,
    adaptive_epsilon,
    calibrate_noise_multiplier,
    cross_check,
    delta,
    discretisation_error,
    epsilon,
    near_noise_multiplier,
    rdp,
)
from privacy.accounting.pld import clear_caches
from privacy.errors import AccountingError
from simulations.bench.bracket import bracket
from tests.oracles.accounting import gaussian_delta, gaussian_epsilon, subsampled_delta

SIGMAS = st.floats(0.5, 20)
RATES = st.floats(1e-3, 1.0)
DELTAS = st.sampled_from([1e-3, 1e-5, 1e-7])
_ORACLE = (
    2e-6  # relative; how well the middle of a bracket of 0.05 % knows the truth: its error is of second order
)


def _gap(value: float, steps: int) -> float:
    """A bracket's width: 0.1 %, less for few steps. Its middle errs by the variance of rounding, gap^2 / (12 steps)."""
    return 1e-3 * value * min(1.0, math.sqrt(steps) / 2)


def test_the_common_task_costs_3_139() -> None:
    # 3 rounds of 7 steps at sigma 1, q 1/7. A fresh accountant each round would print 2.5 three times.
    rounds = [DpSgdEvent(1.0, 1 / 7, 7)] * 3
    value = epsilon(rounds, 1e-3)
    assert value == pytest.approx(3.139, rel=1e-3)
    truth = bracket([(1.0, 1 / 7, 21)], 1e-3, gap=0.001)
    assert truth.middle * (1 - _ORACLE) <= value <= truth.lower * 1.01
    assert epsilon(rounds[:1], 1e-3) < 2.6 < value


@pytest.mark.parametrize(
    ("sigma", "rate", "steps", "at", "expected", "replace_one"),
    [
        (2.0, 0.2, 500, 1e-5, 12.62, 27.74),
        (0.8, 0.001, 100_000, 1e-6, 2.915, 4.62),
        (0.3, 0.01, 1000, 1e-5, 69.82, 75.3),
        (0.5, 0.2, 200, 1e-5, 88.17, 115.1),
        (50.0, 0.02, 100, 1e-6, 0.0126, 0.027),
    ],
)
def test_the_table_of_known_values(
    sigma: float, rate: float, steps: int, at: float, expected: float, replace_one: float
) -> None:
    events = [DpSgdEvent(sigma, rate, steps)]
    assert epsilon(events, at) == pytest.approx(expected, rel=0.01)
    assert epsilon(events, at, adjacency=Adjacency.REPLACE_ONE) == pytest.approx(replace_one, rel=0.03)


@settings(max_examples=25, deadline=None)
@given(sigma=SIGMAS, steps=st.integers(1, 1000), at=DELTAS)
def test_without_sampling_it_is_the_exact_gaussian_from_above(sigma: float, steps: int, at: float) -> None:
    mu = math.sqrt(steps) / sigma
    events = [DpSgdEvent(sigma, 1.0, steps)]
    truth = gaussian_epsilon(at, mu)
    if truth > 700:  # beyond the largest exponent of a double
        assert truth <= epsilon(events, at)
        return
    assert truth <= epsilon(events, at) <= truth * 1.01 + 1e-3
    level = max(truth, 0.1)
    assert gaussian_delta(level, mu) <= delta(events, level) <= gaussian_delta(level, mu) * 1.05 + 1e-9


@settings(max_examples=25, deadline=None)
@given(sigma=SIGMAS, rate=RATES, level=st.floats(0.0, 3.0))
def test_one_sampled_step_is_exact_from_above(sigma: float, rate: float, level: float) -> None:
    truth = subsampled_delta(level, sigma, rate)
    assert truth <= delta([DpSgdEvent(sigma, rate, 1)], level) <= truth * 1.05 + 2e-4 * rate + 1e-9


@pytest.mark.parametrize(
    "segments",
    [[(1.0, 0.1, 20), (2.0, 0.3, 10)], [(0.7, 0.02, 30), (3.0, 1.0, 2), (1.5, 0.5, 4)]],
)
def test_a_composition_of_different_mechanisms_is_bracketed(segments: list[tuple[float, float, int]]) -> None:
    value = epsilon([DpSgdEvent(*segment) for segment in segments], 1e-5)
    truth = bracket(segments, 1e-5, gap=0.001 * value)
    assert truth.middle * (1 - _ORACLE) <= value <= truth.lower * 1.01


@settings(max_examples=12, deadline=None)
@given(sigma=st.floats(0.6, 8), rate=st.floats(0.01, 1.0), steps=st.integers(1, 60), at=DELTAS)
@example(sigma=1.0, rate=1.0, steps=1, at=1e-7)  # few steps round coarsest
def test_it_is_within_one_percent_of_an_independent_accountant_and_never_below_the_truth(
    sigma: float, rate: float, steps: int, at: float
) -> None:
    value = epsilon([DpSgdEvent(sigma, rate, steps)], at)
    assume(0.05 < value < 60)
    truth = bracket([(sigma, rate, steps)], at, gap=_gap(value, steps))
    assert truth.upper - truth.lower < 0.002 * value
    assert max(truth.lower, truth.middle * (1 - _ORACLE)) <= value <= 1.01 * truth.lower


@settings(max_examples=20, deadline=None)
@given(sigma=st.floats(0.6, 8), steps=st.integers(1, 60), at=DELTAS)
@example(sigma=1.0, steps=1, at=1e-7)
def test_the_independent_accountant_holds_the_exact_gaussian_between_its_bounds(
    sigma: float, steps: int, at: float
) -> None:
    exact = gaussian_epsilon(at, math.sqrt(steps) / sigma)
    assume(exact > 0.05)
    found = bracket([(sigma, 1.0, steps)], at, gap=_gap(exact, steps))
    assert found.lower <= exact <= found.upper
    assert found.middle == pytest.approx(exact, rel=_ORACLE)


@settings(max_examples=8, deadline=None)
@given(sigma=SIGMAS, rate=RATES, steps=st.integers(1, 500), at=DELTAS)
def test_it_moves_the_right_way(sigma: float, rate: float, steps: int, at: float) -> None:
    base = epsilon([DpSgdEvent(sigma, rate, steps)], at)
    room = 1e-9 + 0.01 * base + discretisation_error([DpSgdEvent(sigma, rate, steps)], at)
    assert epsilon([DpSgdEvent(sigma * 1.5, rate, steps)], at) <= base + room
    assert epsilon([DpSgdEvent(sigma, rate / 2, steps)], at) <= base + room
    assert epsilon([DpSgdEvent(sigma, rate, 2 * steps)], at) >= base - room
    assert epsilon([DpSgdEvent(sigma, rate, steps), DpSgdEvent(5.0, 0.1, 5)], at) >= base - room
    assert epsilon([DpSgdEvent(sigma, rate, steps)], at * 10) <= base
    assert epsilon([DpSgdEvent(sigma, rate, steps)], at, group_size=1) == base


@pytest.mark.parametrize("at", [0.002, 0.005, 0.01, 0.02])
def test_an_epsilon_of_hundreds_is_finite_and_falls_as_delta_grows(at: float) -> None:
    event = DpSgdEvent(0.5, 0.875, 390)
    assert 600 < epsilon([event], at) <= epsilon([event], 0.001) < 800


@pytest.mark.parametrize("group_size", [2, 3])
def test_a_group_costs_what_sensitivity_k_costs_without_sampling(group_size: int) -> None:
    events = [DpSgdEvent(4.0, 1.0, 3)]
    truth = gaussian_epsilon(1e-5, group_size * math.sqrt(3) / 4.0)
    assert truth <= epsilon(events, 1e-5, group_size=group_size) <= truth * 1.01


def test_a_sampled_group_is_dearer_than_one_and_cheaper_than_always_there() -> None:
    one, two = (epsilon([DpSgdEvent(2.0, 0.1, 30)], 1e-5, group_size=k) for k in (1, 2))
    assert one < two < epsilon([DpSgdEvent(1.0, 0.19, 30)], 1e-5)  # both or neither, with the chance of any


def test_nothing_released_costs_nothing() -> None:
    assert epsilon([], 1e-5) == 0
    assert epsilon([DpSgdEvent(1.0, 0.5, 0)], 1e-5) == 0
    assert delta([], 1.0) == 0


def test_splitting_into_rounds_and_runs_changes_nothing() -> None:
    whole = epsilon([DpSgdEvent(1.2, 0.05, 60), DpSgdEvent(2.0, 0.1, 10)], 1e-5)
    pieces = [DpSgdEvent(1.2, 0.05, 20), DpSgdEvent(2.0, 0.1, 10), DpSgdEvent(1.2, 0.05, 40)]
    assert epsilon(pieces, 1e-5) == whole


def test_discretisation_error_covers_the_gap_to_the_truth() -> None:
    events = [DpSgdEvent(50.0, 1.0, 100)]
    gap = epsilon(events, 1e-5) - gaussian_epsilon(1e-5, 0.2)
    assert 0 <= gap <= discretisation_error(events, 1e-5) + 1e-9


@pytest.mark.parametrize(
    ("events", "at"),
    [
        ([DpSgdEvent(1.0, 1 / 7, 21)], 1e-3),
        ([DpSgdEvent(2.0, 0.2, 500)], 1e-5),
        ([DpSgdEvent(3.0, 1.0, 10)], 1e-5),
        ([DpSgdEvent(0.9, 0.01, 300), DpSgdEvent(1.4, 0.05, 50)], 1e-6),
    ],
)
def test_three_accountants_agree(events: list[DpSgdEvent], at: float) -> None:
    value = epsilon(events, at)
    check = cross_check(events, at, value)
    assert check.prv is not None
    assert check.prv - 0.03 <= value <= check.rdp


def test_the_alarm_rings_on_either_side() -> None:
    events = [DpSgdEvent(1.0, 1 / 7, 21)]
    with pytest.raises(AccountingError, match="below PRV"):
        cross_check(events, 1e-3, 2.511)
    with pytest.raises(AccountingError, match="above the RDP bound"):
        cross_check(events, 1e-3, 4.317)


@settings(max_examples=60, deadline=None)
@given(sigma=st.floats(0.5, 10), rate=RATES, order=st.integers(2, 64))
def test_rdp_matches_an_independent_accountant(sigma: float, rate: float, order: int) -> None:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders=[order])
    accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(sigma)), 10)
    expected = float(accountant._rdp[0])
    assert rdp(DpSgdEvent(sigma, rate, 10), order) == pytest.approx(expected, rel=1e-6, abs=1e-10)


@settings(max_examples=10, deadline=None)
@given(sigma=st.floats(0.8, 5), rate=st.floats(0.005, 0.5), steps=st.integers(1, 500))
def test_the_adaptive_bound_is_never_below_the_planned_one(sigma: float, rate: float, steps: int) -> None:
    events = [DpSgdEvent(sigma, rate, steps)]
    assert adaptive_epsilon(events, 1e-5, (2, 3, 5, 9, 18, 40)) >= epsilon(events, 1e-5)


def test_the_adaptive_bound_has_the_known_price() -> None:
    plan = DpSgdEvent(1.5, 0.05, 200)
    orders = (2, 3, 5, 9, 18, 40)
    assert adaptive_epsilon([plan], 1e-5, orders) == pytest.approx(2.94, rel=0.01)
    assert adaptive_epsilon([plan] * 10, 1e-5, orders) == pytest.approx(10.0, rel=0.01)
    assert adaptive_epsilon([plan] * 30, 1e-5, orders) == pytest.approx(18.7, rel=0.01)


@pytest.mark.parametrize(
    ("target", "at", "rate", "steps", "prior"),
    [
        (3.139, 1e-3, 1 / 7, 21, ()),
        (1.0, 1e-5, 0.1, 300, ()),
        (8.0, 1e-5, 0.02, 1000, (DpSgdEvent(1.0, 0.05, 100),)),
        (60.0, 1e-5, 0.5, 10, ()),
        (0.2, 1e-6, 1.0, 1, ()),
    ],
)
def test_calibration_keeps_the_target_and_wastes_nothing(
    target: float, at: float, rate: float, steps: int, prior: tuple[DpSgdEvent, ...]
) -> None:
    sigma = calibrate_noise_multiplier(target, at, rate, steps, prior)
    assert epsilon([*prior, DpSgdEvent(sigma, rate, steps)], at) <= target
    assert epsilon([*prior, DpSgdEvent(sigma - 2e-4, rate, steps)], at) > target
    assert round(sigma * 10_000) / 10_000 == sigma


@settings(max_examples=10, deadline=None)
@given(
    target=st.floats(0.3, 20),
    at=DELTAS,
    rate=st.floats(0.005, 1.0),
    steps=st.integers(1, 300),
    prior=st.lists(
        st.builds(DpSgdEvent, st.floats(5, 20), st.floats(0.01, 0.2), st.integers(1, 20)), max_size=2
    ),
)
def test_calibration_never_protects_less_than_asked(
    target: float, at: float, rate: float, steps: int, prior: list[DpSgdEvent]
) -> None:
    assume(epsilon(prior, at) < 0.9 * target)
    sigma = calibrate_noise_multiplier(target, at, rate, steps, prior)
    clear_caches()  # nothing that the search left behind
    planned = DpSgdEvent(sigma, rate, steps)
    assert epsilon([*prior, planned], at) <= target
    assert epsilon([*prior, DpSgdEvent(sigma * 1.05, rate, steps)], at) <= target
    if not prior and rate == 1.0:
        assert gaussian_epsilon(at, math.sqrt(steps) / sigma) <= target


def test_a_cached_composition_gives_the_same_digits() -> None:
    events = [DpSgdEvent(1.0 + 0.1 * i, 0.05, 5 + i) for i in range(7)]
    for extra in (DpSgdEvent(3.0, 0.2, 4), events[0], events[3], events[-1]):
        epsilon(events, 1e-5)
        grown = epsilon([*events, extra], 1e-5)
        clear_caches()
        assert epsilon([*events, extra], 1e-5) == grown


def test_calibration_refuses_what_no_noise_can_keep() -> None:
    with pytest.raises(AccountingError, match="already reach"):
        calibrate_noise_multiplier(1.0, 1e-5, 0.1, 10, prior=[DpSgdEvent(0.5, 0.5, 100)])
    with pytest.raises(AccountingError, match="No noise multiplier"):
        calibrate_noise_multiplier(1e-6, 1e-5, 1.0, 100)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_calibration_refuses_a_senseless_target(bad: float) -> None:
    with pytest.raises(AccountingError, match="target_epsilon"):
        calibrate_noise_multiplier(bad, 1e-5, 0.1, 10)


@pytest.mark.parametrize("bad", [0.0, 1.0, -1e-5, 1e-13, math.nan])
def test_a_senseless_delta_is_refused(bad: float) -> None:
    with pytest.raises(AccountingError, match="delta"):
        epsilon([DpSgdEvent(1.0, 0.5, 1)], bad)


def test_unsupported_combinations_are_refused() -> None:
    with pytest.raises(AccountingError, match="group_size"):
        epsilon([DpSgdEvent(1.0, 0.5, 1)], 1e-5, group_size=0)
    with pytest.raises(AccountingError, match="add/remove"):
        epsilon([DpSgdEvent(1.0, 0.5, 1)], 1e-5, group_size=2, adjacency=Adjacency.REPLACE_ONE)
    with pytest.raises(AccountingError, match="order"):
        rdp(DpSgdEvent(1.0, 0.5, 1), 1)


@pytest.mark.parametrize(
    ("target", "rate", "steps"), [(8, 0.5, 60), (1, 0.1, 30), (0.3, 0.02, 300), (20, 1, 1)]
)
def test_a_near_noise_multiplier_never_exceeds_the_target(target: float, rate: float, steps: int) -> None:
    noise = near_noise_multiplier(target, 1e-5, rate, steps)
    assert 0.96 * target < epsilon([DpSgdEvent(noise, rate, steps)], 1e-5) <= target
    assert noise >= calibrate_noise_multiplier(target, 1e-5, rate, steps)
    with pytest.raises(AccountingError, match="steps"):
        near_noise_multiplier(target, 1e-5, rate, 0)
    with pytest.raises(AccountingError, match="target_epsilon"):
        near_noise_multiplier(-1, 1e-5, rate, steps)
