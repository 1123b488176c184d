"""E4: exact under the claim, a bound below the truth, and closer to it than guesses come."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from scipy import stats

from privacy.accounting import DpSgdEvent, epsilon
from privacy.audit import bounds
from privacy.audit.canaries import Game
from privacy.audit.result import LEVEL
from privacy.audit.whole_score import gaussian_epsilon, whole_score_bound, whole_score_p_value

DELTA = 1e-5
CLAIM = DpSgdEvent(1.2, 0.1, 60)
RUNS = 200


def simulated(true: DpSgdEvent, seed: int, contribution: float = 1.0, canaries: int = 400) -> Game:
    generator = np.random.default_rng(seed)
    included = generator.random(canaries) < 0.5
    present = (generator.random((true.steps, canaries)) < true.sampling_rate) & included
    noise = true.noise_multiplier * generator.standard_normal(present.shape)
    return Game(contribution * present + noise, included, present)


@cache
def claimed_epsilon() -> float:
    return epsilon([CLAIM], DELTA)


def test_the_claimed_mechanism_is_rejected_no_more_often_than_the_p_value_says() -> None:
    found = [whole_score_p_value(simulated(CLAIM, seed), CLAIM) for seed in range(RUNS)]
    assert stats.binom.sf(sum(p < 0.05 for p in found) - 1, RUNS, 0.05) > 1e-6
    assert min(found) > LEVEL


@pytest.mark.parametrize(
    "game",
    [
        simulated(DpSgdEvent(0.9, 0.1, 60), 0),
        simulated(DpSgdEvent(1.2, 0.2, 60), 0),
        simulated(CLAIM, 0, 2.5),
    ],
)
def test_less_noise_a_higher_rate_and_larger_contributions_are_rejected(game: Game) -> None:
    assert whole_score_p_value(game, CLAIM) < LEVEL


def test_less_than_claimed_is_no_fault() -> None:
    for game in (
        simulated(DpSgdEvent(2.0, 0.1, 60), 1), simulated(DpSgdEvent(1.2, 0.02, 60), 1), simulated(CLAIM, 1, 0.3)
    ):  # fmt: skip
        assert whole_score_p_value(game, CLAIM) > 0.01


def test_the_bound_stays_below_the_claim_and_above_that_from_guesses() -> None:
    games = [simulated(CLAIM, seed) for seed in range(20)]
    found = np.array([whole_score_bound(game, DELTA) for game in games])
    guessed = [bounds.one_run_bound(bounds.correct_guesses(game, CLAIM, 40), DELTA) for game in games]
    assert found.max() < claimed_epsilon()
    assert np.median(found) > np.median(guessed)


def test_the_bound_holds_for_gaussian_scores_as_often_as_it_says() -> None:
    """Without sampling the scores are exactly Gaussian and epsilon is known."""
    true = DpSgdEvent(20.0, 1.0, 100)
    found = np.array([whole_score_bound(simulated(true, seed), DELTA) for seed in range(RUNS)])
    exact = gaussian_epsilon(10 / 20.0, DELTA)
    assert stats.binom.sf((found > exact).sum() - 1, RUNS, 0.05) > 1e-6
    assert np.median(found) > 0.4 * exact


def test_nothing_is_claimed_without_canaries_on_both_sides() -> None:
    game = simulated(CLAIM, 3)
    all_in = Game(game.observed, np.ones_like(game.included), game.present)
    assert whole_score_bound(all_in, DELTA) == 0.0
    assert whole_score_p_value(all_in, CLAIM) == 1.0


@pytest.mark.parametrize("mu", [0.3, 1.0, 4.0])
def test_gaussian_epsilon_solves_its_equation(mu: float) -> None:
    e = gaussian_epsilon(mu, DELTA)
    left = stats.norm.cdf(mu / 2 - e / mu) - math.exp(e) * stats.norm.cdf(-mu / 2 - e / mu)
    assert left == pytest.approx(DELTA, rel=1e-6)
    assert gaussian_epsilon(0.0, DELTA) == gaussian_epsilon(1e-9, DELTA) == 0.0
