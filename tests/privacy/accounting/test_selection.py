"""The best of a random number of trials costs what the theorem says, and never less than it truly does."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.dp_event import RepeatAndSelectDpEvent
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy.accounting import (
    DpSgdEvent,
    SelectionEvent,
    adaptive_epsilon,
    calibrate_selection,
    claimed_epsilon,
    epsilon,
    event_from_json,
    merge,
    rdp,
)
from privacy.accounting.rdp import ORDERS
from privacy.accounting.stopping import draw_number_of_trials, negative_log_success, number_at
from privacy.errors import AccountingError

TRIAL = DpSgdEvent(1.5, 0.05, 200)  # PLD 2.35 at 1e-5
TRIALS = st.builds(DpSgdEvent, st.floats(0.5, 20), st.floats(0.001, 1.0), st.integers(1, 500))
SELECTIONS = st.builds(
    SelectionEvent,
    st.lists(TRIALS, min_size=1, max_size=3).map(tuple),
    st.floats(1, 1000),
    st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    st.integers(0, 3),
)


def _density_of_best(p: np.ndarray, below: np.ndarray, gamma: float, shape: float) -> np.ndarray:
    """Density of the largest of K draws: derivative of E[below^K], times that of one draw."""
    rest = 1 - (1 - gamma) * below
    if shape == 0:
        return p * (1 - gamma) / (rest * math.log(1 / gamma))
    return p * shape * (1 - gamma) * rest ** (-shape - 1) / (gamma**-shape - 1)


@pytest.mark.parametrize("rate", [1.0, 0.3])
@pytest.mark.parametrize("shape", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("mean", [1.01, 4.0, 30.0])
@pytest.mark.parametrize("sigma", [0.7, 2.0, 8.0])
def test_the_bound_holds_for_the_true_divergence_of_the_best_of_gaussian_trials(
    sigma: float, mean: float, shape: float, rate: float
) -> None:
    """Each trial releases N(0, sigma^2), or with one patient more at times N(1, sigma^2); the largest is kept."""
    x = np.linspace(-14 * sigma, 1 + 14 * sigma, 200_001)
    gamma = math.exp(-negative_log_success(mean, shape))
    (p0, below0), (p1, below1) = (
        (stats.norm.pdf(x, at, sigma), stats.norm.cdf(x, at, sigma)) for at in (0, 1)
    )
    without = _density_of_best(p0, below0, gamma, shape)
    with_one = _density_of_best(
        (1 - rate) * p0 + rate * p1, (1 - rate) * below0 + rate * below1, gamma, shape
    )
    assert np.trapezoid(without, x) == pytest.approx(1, abs=1e-6)
    event = SelectionEvent((DpSgdEvent(sigma, rate, 1),), mean, shape)
    for order in (2, 3, 5, 9, 18):
        for p, q in ((with_one, without), (without, with_one)):
            safe = (p > 1e-200) & (q > 1e-200)
            log_ratio = order * np.log(p[safe]) + (1 - order) * np.log(q[safe])
            moment = np.trapezoid(np.exp(log_ratio), x[safe])
            assert math.log(moment) / (order - 1) <= rdp(event, order) + 1e-6


@pytest.mark.parametrize("shape", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("mean", [2.0, 10.0, 100.0])
@pytest.mark.parametrize("trial", [TRIAL, DpSgdEvent(8.0, 1.0, 30), DpSgdEvent(3.0, 0.25, 50)])
def test_it_is_what_dp_accounting_says(trial: DpSgdEvent, mean: float, shape: float) -> None:
    accountant = RdpAccountant(orders=list(ORDERS))
    step = PoissonSampledDpEvent(trial.sampling_rate, GaussianDpEvent(trial.noise_multiplier))
    accountant.compose(RepeatAndSelectDpEvent(SelfComposedDpEvent(step, trial.steps), mean, shape))
    ours = claimed_epsilon([SelectionEvent((trial,), mean, shape)], 1e-5)
    theirs = float(accountant.get_epsilon(1e-5))
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert ours >= theirs * (1 - 1e-6)


def test_one_trial_for_certain_costs_what_it_costs_alone() -> None:
    for shape in (0.0, 0.5, 1.0):
        event = SelectionEvent((TRIAL,), 1.0, shape)
        assert [rdp(event, order) for order in ORDERS] == [rdp(TRIAL, order) for order in ORDERS]
        assert {draw_number_of_trials(1.0, shape) for _ in range(20)} == {1}


@given(SELECTIONS)
@settings(deadline=None, max_examples=50)
def test_a_selection_is_never_cheaper_than_any_of_its_trials(event: SelectionEvent) -> None:
    for order in (2, 9, 40):
        dearest = max(rdp(trial, order) for trial in event.trials)
        assert rdp(event, order) >= event.steps * dearest
    twice = SelectionEvent(event.trials, event.mean, event.shape, 2 * event.steps)
    assert rdp(twice, 5) == pytest.approx(2 * rdp(event, 5))
    more = SelectionEvent(event.trials, 2 * event.mean, event.shape, event.steps)
    assert rdp(more, 5) >= rdp(event, 5)


def test_a_claim_is_by_pld_without_and_by_rdp_with_a_selection() -> None:
    assert claimed_epsilon([TRIAL], 1e-5) == epsilon([TRIAL], 1e-5)
    sweep = SelectionEvent((TRIAL,), 10.0, 1.0)
    together = claimed_epsilon([TRIAL, sweep], 1e-5)
    assert claimed_epsilon([sweep], 1e-5) < together
    expected = min(
        rdp(TRIAL, a) + rdp(sweep, a) + math.log1p(-1 / a) - (math.log(1e-5) + math.log(a)) / (a - 1)
        for a in ORDERS
    )
    assert together == pytest.approx(expected)
    assert together <= adaptive_epsilon([TRIAL, sweep], 1e-5, [2, 3, 5, 9, 18, 40])
    with pytest.raises(AccountingError, match="delta"):
        claimed_epsilon([sweep], 0.0)


@pytest.mark.parametrize("shape", [0.0, 1.0])
@pytest.mark.parametrize("target", [1.0, 4.0, 10.0])
def test_calibration_keeps_the_target_and_wastes_little(target: float, shape: float) -> None:
    schedules = [(0.1, 100), (0.5, 20), (0.1, 100), (1.0, 5)]
    event = calibrate_selection(target, 1e-5, schedules, 10.0, shape)
    assert [(trial.sampling_rate, trial.steps) for trial in event.trials] == schedules
    assert 0.97 * target < claimed_epsilon([event], 1e-5) <= target


@pytest.mark.parametrize("mean", [1.5, 8.0, 60.0])
@pytest.mark.parametrize("shape", [0.0, 0.5, 1.0, 3.0])
def test_the_number_of_trials_is_drawn_from_the_distribution_that_is_charged(
    mean: float, shape: float
) -> None:
    lost = negative_log_success(mean, shape)
    gamma = math.exp(-lost)
    numbers = np.arange(1, 20_000)
    if shape == 0:
        below = np.cumsum((1 - gamma) ** numbers / (numbers * lost))
    else:
        zero = stats.nbinom.pmf(0, shape, gamma)
        below = (stats.nbinom.cdf(numbers, shape, gamma) - zero) / (1 - zero)
    assert np.sum(1 - below) + 1 == pytest.approx(mean, rel=1e-6)
    for uniform in (0.001, 0.1, 0.5, 0.9, 0.999):
        assert number_at(uniform, mean, shape) == pytest.approx(
            int(np.searchsorted(below, uniform)) + 1, abs=1
        )
    drawn = [draw_number_of_trials(mean, shape) for _ in range(500)]
    error = 5 * math.sqrt(max(1.0, np.sum((2 * numbers + 1) * (1 - below)) + 1 - mean**2) / 500)
    assert abs(np.mean(drawn) - mean) < error


@given(SELECTIONS)
def test_it_can_be_read_for_ever(event: SelectionEvent) -> None:
    assert event_from_json(json.loads(json.dumps(event.to_json()))) == event


def test_version_1_can_always_be_read() -> None:
    text = (
        '{"version": 1, "mechanism": "best_of_a_random_number_of_trials", "mean": 10.0, "shape": 0.0, "steps": 1, '
        '"trials": [{"version": 1, "mechanism": "poisson_subsampled_gaussian", "noise_multiplier": 1.25, '
        '"sampling_rate": 0.05, "steps": 7}]}'
    )
    assert event_from_json(json.loads(text)) == SelectionEvent((DpSgdEvent(1.25, 0.05, 7),), 10.0, 0.0)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2}, {"mechanism": "best_of_all"}, {"trials": []}, {"trials": None}, {"trials": [1]},
        {"mean": 0.5}, {"mean": True}, {"mean": math.inf}, {"shape": -0.5}, {"shape": math.nan}, {"steps": -1},
        {"extra": 1},
    ],
)  # fmt: skip
def test_what_is_not_a_selection_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(AccountingError):
        event_from_json(SelectionEvent((TRIAL,), 10.0, 1.0).to_json() | change)


def test_merging_adds_up_each_mechanism_apart() -> None:
    sweep, other = SelectionEvent((TRIAL,), 10.0, 1.0), SelectionEvent((TRIAL,), 10.0, 0.0)
    assert merge([sweep, TRIAL, other, sweep]) == (SelectionEvent((TRIAL,), 10.0, 1.0, 2), TRIAL, other)
