"""The attacker's best rates, and the report that gathers every number."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy.accounting import DpSgdEvent, account, epsilon, trade_off
from privacy.errors import AccountingError


@settings(max_examples=30, deadline=None)
@given(mu=st.floats(0.1, 4), fpr=st.floats(0.0, 1.0))
def test_without_sampling_it_is_the_gaussian_trade_off_from_above(mu: float, fpr: float) -> None:
    curve = trade_off([DpSgdEvent(1 / mu, 1.0, 1)])
    truth = float(stats.norm.cdf(stats.norm.ppf(fpr) + mu))
    assert truth - 1e-9 <= curve.true_positive_rate(fpr) <= truth + 0.01
    assert curve.advantage == pytest.approx(2 * stats.norm.cdf(mu / 2) - 1, abs=1e-3)


@pytest.mark.parametrize(
    ("sigma", "at_1", "at_10", "advantage", "posterior"),
    [
        (6.5877, 0.020, 0.15, 0.105, 0.02),
        (2.0682, 0.076, 0.34, 0.337, 0.07),
        (1.2861, 0.216, 0.59, 0.543, 0.18),
    ],
)
def test_known_risks_at_epsilon_1_4_and_8(
    sigma: float, at_1: float, at_10: float, advantage: float, posterior: float
) -> None:
    curve = trade_off([DpSgdEvent(sigma, 0.1, 300)])
    assert curve.true_positive_rate(0.01) == pytest.approx(at_1, abs=6e-4)
    assert curve.true_positive_rate(0.1) == pytest.approx(at_10, abs=6e-3)
    assert curve.advantage == pytest.approx(advantage, abs=6e-4)
    assert curve.posterior(0.01, 0.01) == pytest.approx(posterior, abs=6e-3)


def test_the_curve_rises_from_delta_and_is_never_below_chance() -> None:
    curve = trade_off([DpSgdEvent(1.0, 0.1, 50)])
    rates = [curve.true_positive_rate(fpr / 100) for fpr in range(101)]
    assert rates == sorted(rates)
    assert all(tpr >= fpr / 100 for fpr, tpr in enumerate(rates))
    assert rates[0] < 1e-6
    assert rates[-1] == 1


def test_nothing_released_tells_nothing() -> None:
    curve = trade_off([])
    assert curve.true_positive_rate(0.1) == pytest.approx(0.1)
    assert curve.posterior(0.3, 0.1) == pytest.approx(0.3)
    assert curve.advantage == 0


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_rates_outside_0_1_are_refused(bad: float) -> None:
    curve = trade_off([DpSgdEvent(1.0, 0.1, 1)])
    with pytest.raises(AccountingError, match="false_positive_rate"):
        curve.true_positive_rate(bad)
    with pytest.raises(AccountingError, match="prior"):
        curve.posterior(bad, 0.1)


def test_the_report_holds_every_number_and_survives_json() -> None:
    events = [DpSgdEvent(1.0, 1 / 7, 7)] * 3
    report = account(events, 1e-3)
    assert report.events == (DpSgdEvent(1.0, 1 / 7, 21),)
    assert report.epsilon == epsilon(events, 1e-3)
    assert report.epsilon < report.epsilon_replace_one < report.epsilon_group[2]
    assert report.cross_check.prv == pytest.approx(3.150, abs=2e-3)
    assert report.cross_check.rdp == pytest.approx(3.87, abs=5e-3)
    assert report.discretisation_error < 1e-3
    assert json.loads(json.dumps(report.to_json(), allow_nan=False)) == report.to_json()
