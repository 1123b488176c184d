"""The lower bounds on epsilon hold for ideal mechanisms as often as they say, and find gross faults."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from privacy.accounting import DpSgdEvent, epsilon
from privacy.audit import bounds, per_step
from privacy.audit.bounds import Guesses
from privacy.audit.canaries import Game

DELTA = 1e-5
CLAIM = DpSgdEvent(1.2, 0.1, 60)
RUNS = 60


def simulated(canaries: int, claim: DpSgdEvent, true_noise: float, seed: int) -> Game:
    """A canary game of the ideal mechanism, with another noise multiplier than claimed."""
    generator = np.random.default_rng(seed)
    included = generator.random(canaries) < 0.5
    present = (generator.random((claim.steps, canaries)) < claim.sampling_rate) & included
    noise = true_noise * generator.standard_normal(present.shape)
    return Game(present + noise, included, present)


@cache
def claimed_epsilon() -> float:
    return epsilon([CLAIM], DELTA)


@given(st.integers(1, 300), st.floats(0.0, 5.0))
def test_e1_of_pure_dp_is_the_binomial_tail(guesses: int, at_epsilon: float) -> None:
    found = Guesses(2 * guesses, guesses, guesses)
    expected = (math.exp(at_epsilon) / (1 + math.exp(at_epsilon))) ** guesses
    assert math.isclose(bounds.one_run_p_value(found, at_epsilon, 0.0), expected, rel_tol=1e-9)


def test_e1_with_delta_is_the_published_sum() -> None:
    m, r, v, e, delta = 40, 12, 11, 1.5, 1e-3
    p = 1 / (1 + math.exp(-e))
    mass = [math.comb(r, k) * p**k * (1 - p) ** (r - k) for k in range(r + 1)]
    slopes = [sum(mass[v - i : v]) / i for i in range(1, v + 1)]
    expected = sum(mass[v:]) + 2 * m * delta * max(slopes)
    assert math.isclose(bounds.one_run_p_value(Guesses(m, r, v), e, delta), expected, rel_tol=1e-9)


def test_e1_bound_is_where_the_p_value_meets_the_significance() -> None:
    found = Guesses(500, 100, 95)
    bound = bounds.one_run_bound(found, DELTA)
    assert bounds.one_run_p_value(found, bound, DELTA) <= 0.05
    assert bounds.one_run_p_value(found, bound + 1e-3, DELTA) > 0.05
    assert bounds.one_run_bound(Guesses(500, 100, 50), DELTA) == 0.0


@pytest.mark.parametrize("mu", [0.5, 2.0])
def test_e2_rejects_the_truth_seldom_and_half_of_it_often(mu: float) -> None:
    """One Gaussian observation a canary: the trade-off function of the mechanism is known exactly."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(200):
        included = generator.random(1000) < 0.5
        found.append(bounds.guess(mu * included + generator.standard_normal(1000), included, 60))
    held = np.array([bounds.gaussian_bound(guesses) for guesses in found])
    assert stats.binom.sf((held > mu).sum() - 1, 200, 0.05) > 1e-6
    assert np.median(held) > 0.4 * mu


def test_guessing_takes_the_surest() -> None:
    score = np.array([5.0, -4.0, 0.1, 3.0, -0.1, -6.0])
    included = np.array([True, False, False, False, True, False])
    assert bounds.guess(score, included, 2) == Guesses(6, 4, 3)


def test_e1_and_e2_of_the_claimed_mechanism_stay_below_the_claim_and_find_missing_noise() -> None:
    honest = simulated(600, CLAIM, CLAIM.noise_multiplier, 1)
    found = bounds.correct_guesses(honest, CLAIM, 40)
    e1, e2 = bounds.one_run_bound(found, DELTA), bounds.trade_off_bound(found, CLAIM, DELTA)
    assert 0 < e1 < e2 < claimed_epsilon()
    assert bounds.one_run_p_value(found, claimed_epsilon(), DELTA) > 0.05
    assert bounds.trade_off_p_value(found, CLAIM) > 0.05

    quiet = bounds.correct_guesses(simulated(600, CLAIM, 0.1, 1), CLAIM, 250)
    assert quiet.correct == quiet.guesses
    assert bounds.trade_off_p_value(quiet, CLAIM) < 1e-5
    assert bounds.trade_off_bound(quiet, CLAIM, DELTA) > claimed_epsilon()


def test_e3_rejects_the_claim_seldom_and_less_noise_always() -> None:
    def p_value(true_noise: float, seed: int) -> float:
        drawn, absent = per_step.step_observations(simulated(400, CLAIM, true_noise, seed))
        return per_step.step_p_value(drawn, absent, CLAIM)

    honest = np.array([p_value(CLAIM.noise_multiplier, seed) for seed in range(RUNS)])
    assert stats.binom.sf((honest <= 0.05).sum() - 1, RUNS, 0.05) > 1e-6
    assert p_value(0.7 * CLAIM.noise_multiplier, 1) < 1e-6


def test_e3_comes_close_to_the_claim() -> None:
    drawn, absent = per_step.step_observations(simulated(4000, CLAIM, CLAIM.noise_multiplier, 2))
    found = per_step.step_bound(drawn, absent, CLAIM, DELTA)
    assert 0.85 * claimed_epsilon() < found < claimed_epsilon()
    assert per_step.step_bound(drawn[:0], absent, CLAIM, DELTA) == 0.0


def test_the_plan_of_guesses_depends_on_the_claim_alone() -> None:
    first, second = (bounds.guesses_planned(400, CLAIM, bounds.gaussian_bound) for _ in range(2))
    assert first == second
    assert 1 <= first <= 200
