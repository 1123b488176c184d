"""What being a federation costs in noise, against the noise itself."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from privacy.accounting import DpSgdEvent, calibrate_noise_multiplier, epsilon
from privacy.errors import PlanError
from privacy.planning import plan_training
from privacy.planning.releases import (
    COUNT,
    RATE,
    REPEATS,
    Release,
    compare_releases,
    learning_rate,
    recommend,
    recommended_honest,
    steps_for_mean,
)

ASK = {"target_epsilon": 8.0, "delta": 1e-4, "batch_size": 64, "local_epochs": 2.0, "rounds": 3}


def releases(patients: int = 1000, sites: int = 4, honest: int = 3, **more: float) -> dict[str, Release]:
    found, _ = compare_releases(patients=patients, sites=sites, honest=honest, **ASK | more)  # type: ignore[arg-type]
    return {one.kind: one for one in found}


def test_each_way_keeps_the_budget_by_the_accountant_of_the_ledger() -> None:
    for one in releases().values():
        assert one.epsilon == epsilon([one.event], 1e-4) <= 8
    single = releases()["steps"].event
    assert single == DpSgdEvent(calibrate_noise_multiplier(8.0, 1e-4, RATE, COUNT), RATE, COUNT)
    assert releases()["secure-steps"].event.steps == COUNT + REPEATS  # what is asked again is charged, too
    rounds = plan_training(patients=250, **ASK)  # type: ignore[arg-type]
    assert releases()["rounds"].event == rounds.event


@pytest.mark.parametrize("kind", ["pooled", "rounds", "steps", "secure-steps"])
def test_the_noise_is_that_of_sums_that_are_added_up(kind: str) -> None:
    """Drawn as the sites draw it: T sums of K sites, over all the gradients that are in them."""
    one, sites, honest = releases()[kind], 4, 3
    sigma, rng = one.event.noise_multiplier, np.random.default_rng(0)
    drawing = 1 if kind == "pooled" else sites
    own = sigma / math.sqrt(honest) if kind == "secure-steps" else sigma
    sums = rng.normal(scale=own, size=(4_000, one.steps, drawing)).sum(axis=(1, 2))
    gradients = one.steps * one.event.sampling_rate * 1000
    assert one.noise == pytest.approx(sums.std() / gradients, rel=0.05)


def test_what_is_lost_is_given_as_pooled_training_that_is_as_noisy() -> None:
    for one in releases().values():
        sigma = releases()["pooled"].event.noise_multiplier
        fewer = sigma / (RATE * one.patients * math.sqrt(COUNT))
        assert fewer == pytest.approx(one.noise, rel=5e-3) and fewer >= one.noise * (1 - 1e-9)
        dearer = DpSgdEvent(sigma * one.noise / releases()["pooled"].noise, RATE, COUNT)
        assert one.like_epsilon == pytest.approx(epsilon([dearer], 1e-4))
    found = releases()
    assert (found["pooled"].patients, found["pooled"].like_epsilon) == (1000, found["pooled"].epsilon)
    assert found["steps"].patients == 500  # 1 / sqrt(4)
    assert found["steps"].noise > found["secure-steps"].noise > found["pooled"].noise


def test_what_is_recommended_follows_from_noise() -> None:
    found = list(releases().values())
    assert recommend(found).kind == "secure-steps"
    assert recommend(list(releases(honest=1).values())).kind == "steps"  # nobody to share noise with
    assert [recommended_honest(sites) for sites in (2, 3, 4, 8)] == [1, 2, 3, 6]


def test_small_cohorts_step_less_far() -> None:
    many, few = (releases(patients=count, delta=1e-6)["steps"] for count in (100_000, 400))
    assert learning_rate(many, 1.0) == 8 and learning_rate(few, 1.0) < 8
    assert learning_rate(many, 0.5) == 16  # the step is as long
    assert learning_rate(few, 1.0) * few.noise * few.steps <= 0.5 * 1.05
    assert few.bears(1.0) < many.bears(1.0) == int(many.noise**-2)


def test_as_many_steps_teach_a_mean_as_its_noise_asks_for() -> None:
    release, share = Release("steps", DpSgdEvent(5.0, 0.5, 60), 60, 8.0, 0.0, 0, 8.0), 0.7
    for noise in (0.0005, 0.001, 0.002):
        of = replace(release, noise=noise)
        steps = steps_for_mean(of, 1280, share)
        # drawn: the sum of `steps` noisy sums of so many features of one direction, over their number
        counted, rng = 1000.0, np.random.default_rng(1)
        per_step = noise * math.sqrt(of.steps) * counted
        drawn = rng.normal(0, per_step, (steps, 1280)).sum(0) / (steps * counted * share)
        assert np.linalg.norm(drawn) < 0.25 * 1.1
        assert steps == 1 or np.linalg.norm(drawn) * math.sqrt(steps / (steps - 1)) > 0.25 / 1.1
    assert steps_for_mean(replace(release, noise=1.0), 1280, share) == 12  # a fifth at most


def test_what_cannot_be_planned_is_said() -> None:
    found, missing = compare_releases(patients=100, sites=4, honest=3, **ASK | {"batch_size": 128})  # type: ignore[arg-type]
    assert "rounds" not in [one.kind for one in found] and "training.batch_size" in missing
    with pytest.raises(PlanError, match="--patients"):
        releases(patients=3)
    for honest in (0, 5):
        with pytest.raises(PlanError, match="from 1 to 4"):
            releases(honest=honest)
    with pytest.raises(PlanError, match="1 / patients"):
        releases(delta=0.5)
