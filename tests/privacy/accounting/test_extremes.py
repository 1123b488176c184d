"""Whatever is asked of the accountant, it answers or refuses, in bounded time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from hypothesis import example, given, settings
from hypothesis import strategies as st

from privacy.accounting import DpSgdEvent, account, calibrate_noise_multiplier, delta, epsilon, rdp, trade_off
from privacy.accounting.calibrate import _MAX_TICKS, _MIN_TICKS, _search
from privacy.accounting.pld import discretisation_error, rough_epsilon
from privacy.accounting.step import divergence, gaussian_step
from privacy.errors import AccountingError

NOISE = st.floats(-6, 6).map(lambda power: 10.0**power)
RATE = st.floats(-9, 0).map(lambda power: 10.0**power)
STEPS = st.floats(0, 4).map(lambda power: int(10**power))


@settings(max_examples=8, deadline=None)
@given(sigma=NOISE, rate=RATE, steps=STEPS, at=st.floats(-10, -0.01).map(lambda power: 10.0**power))
@example(sigma=1e-6, rate=1.0, steps=10**5, at=1e-5)
@example(sigma=1e6, rate=1e-9, steps=1, at=1e-10)
def test_every_mechanism_has_an_epsilon_which_may_be_infinite(
    sigma: float, rate: float, steps: int, at: float
) -> None:
    event = DpSgdEvent(sigma, rate, steps)
    found = epsilon([event], at)
    assert found >= 0 and rough_epsilon([event], at) >= 0
    assert discretisation_error([event], at) >= 0
    assert 0 <= delta([event], min(found, 1e6)) <= 1
    assert 0 <= trade_off([event]).true_positive_rate(0.01) <= 1
    assert rdp(event, 2) >= 0


def test_a_mechanism_that_bounds_nothing_is_reported_as_such() -> None:
    report = account([DpSgdEvent(1e-6, 1.0, 1000)], 1e-5)
    assert report.epsilon == math.inf and report.advantage == 1
    assert report.true_positive_rate[0.01] == 1


@pytest.mark.parametrize(
    "values",
    [
        (1e-12, 0.5, 1),
        (1e300, 0.5, 1),
        (math.nan, 0.5, 1),
        (0.0, 0.5, 1),
        (1.0, 1e-300, 1),
        (1.0, math.nan, 1),
        (1.0, 0.5, 10**30),
    ],
)
def test_values_beyond_any_accountants_arithmetic_are_refused(values: tuple[float, float, int]) -> None:
    with pytest.raises(AccountingError, match=r"must be .* Found"):
        DpSgdEvent(*values)


@settings(max_examples=25, deadline=None)
@given(sigma=st.floats(0.0625, 100), rate=st.one_of(st.just(1.0), st.floats(1e-5, 1)))
def test_a_step_is_that_of_dp_accounting(sigma: float, rate: float) -> None:
    width = 5e-3 / sigma
    theirs = privacy_loss_distribution.from_gaussian_mechanism(
        sigma, value_discretization_interval=width, sampling_prob=rate
    )
    levels = [0.0, 0.01, 0.5, 2.0, 10.0]
    found = gaussian_step(sigma, rate, width).get_delta_for_epsilon(levels)
    assert found == pytest.approx(theirs.get_delta_for_epsilon(levels), rel=1e-7, abs=1e-11)


@given(
    sigma=st.floats(0.01, 100), rate=st.floats(1e-6, 1), level=st.floats(-2000, 2000), step=st.floats(0, 10)
)
def test_a_divergence_is_one_and_falls(sigma: float, rate: float, level: float, step: float) -> None:
    at = np.array([level, level + step])
    for added in (False, True):
        left, right = divergence(at, sigma, rate, added=added)
        assert 0 <= right <= left + 1e-15 <= 1 + 1e-15
        assert left >= -np.expm1(min(level, 0.0)) - 1e-15  # no two distributions are nearer than equal ones


def test_a_loss_beyond_the_largest_double_is_told_too() -> None:
    # At noise 0.02 a unit that was drawn loses 1250, give or take 50, less ln(1 / rate): above 900 for sure.
    for level, drawn in ((690.0, 1.0), (900.0, 1.0), (2000.0, 0.0)):
        (found,) = divergence(np.array([level]), 0.02, 1e-6, added=False)
        assert found == pytest.approx(drawn * 1e-6, rel=1e-6, abs=1e-12)


@settings(max_examples=200)
@given(
    target=st.floats(-8, 8).map(lambda power: 10.0**power),
    slope=st.floats(0.2, 8),
    scale=st.floats(-10, 10).map(lambda power: 10.0**power),
    infinite_below=st.integers(0, _MAX_TICKS),
    flat_above=st.integers(_MIN_TICKS, _MAX_TICKS),
)
@example(
    target=1.0, slope=1.0, scale=10.0, infinite_below=28283, flat_above=100_000
)  # the target itself, and flat
def test_the_search_ends_soon_whatever_falls(
    target: float, slope: float, scale: float, infinite_below: int, flat_above: int
) -> None:
    asked = []

    def spent(ticks: int) -> float:
        asked.append(ticks)
        if ticks < infinite_below:
            return math.inf
        return scale * (min(ticks, flat_above) / 1e4) ** -slope

    try:
        found, _ = _search(spent, target, 10_000, 1.5)
    except AccountingError:
        assert spent(_MAX_TICKS) > target
    else:
        assert spent(found) <= target
        assert found == _MIN_TICKS or spent(found - 1) > target
    assert len(asked) < 150


@settings(max_examples=10, deadline=None)
@given(
    target=st.floats(-3, 5).map(lambda power: 10.0**power),
    rate=st.floats(-4, 0).map(lambda power: 10.0**power),
    steps=st.integers(1, 3000),
    at=st.sampled_from([1e-3, 1e-6, 1e-9]),
)
@example(target=1000.0, rate=0.02, steps=300, at=1e-3)
@example(target=1e9, rate=1.0, steps=10_000, at=1e-5)
def test_any_plan_is_solved_or_refused(target: float, rate: float, steps: int, at: float) -> None:
    try:
        sigma = calibrate_noise_multiplier(target, at, rate, steps)
    except AccountingError as error:
        assert "No noise multiplier" in str(error)
    else:
        assert epsilon([DpSgdEvent(sigma, rate, steps)], at) <= target
