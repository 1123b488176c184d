"""The attack finds what leaks, as much as it leaks, and does not cry wolf."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy import stats

from privacy.attack import AttackResult, clopper_pearson, judge, membership_scores
from privacy.errors import ReportError

PATIENTS = 2000


def game(shift: float, shadows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Confidences that taking part raises by `shift`, about a mean that differs from patient to patient."""
    generator = np.random.default_rng(seed)
    hard = 3 * generator.standard_normal(PATIENTS)
    included = np.array([np.roll(np.arange(PATIENTS) % 4 != 0, i) for i in range(shadows)])
    member = generator.random(PATIENTS) < 0.75
    noise = generator.standard_normal((shadows + 1, PATIENTS))
    return hard + shift * member + noise[0], hard + shift * included + noise[1:], included, member


def gaussian(mu: float) -> Any:
    return lambda rate: float(stats.norm.sf(stats.norm.isf(rate) - mu))


def test_it_finds_a_leak_and_comes_near_the_best_attacker() -> None:
    target, shadows, included, member = game(3.0, 16, 0)
    found = judge(membership_scores(target, shadows, included), member, lambda rate: 1.0, 16)
    for rate in found.rates:
        low, high = found.interval(rate)
        assert 0.7 * gaussian(3.0)(rate.at) < low < high <= gaussian(3.0)(rate.at) * 1.05
        assert rate.false_positives <= rate.at * found.others
    assert found.passed and found.auroc > 0.9


def test_no_leak_no_finding_and_a_broken_promise_is_called_one() -> None:
    target, shadows, included, member = game(0.0, 8, 1)
    found = judge(membership_scores(target, shadows, included), member, lambda rate: rate, 8)
    assert found.passed and abs(found.auroc - 0.5) < 0.05
    target, shadows, included, member = game(3.0, 8, 2)
    found = judge(membership_scores(target, shadows, included), member, gaussian(0.3), 8)
    assert not found.passed and "EXCEEDED" in found.to_text()


def test_a_mechanism_at_its_bound_is_hardly_ever_called_broken() -> None:
    generator = np.random.default_rng(3)
    for _ in range(200):
        member = generator.random(500) < 0.7
        score = generator.standard_normal(500) + 1.5 * member
        assert judge(score, member, gaussian(1.5), 4).passed


def test_the_interval_is_the_textbook_one() -> None:
    low, high = clopper_pearson(7, 50, 0.05)
    exact = stats.binomtest(7, 50).proportion_ci(method="exact")
    assert (low, high) == pytest.approx((exact.low, exact.high))
    assert clopper_pearson(0, 9, 0.05)[0] == 0 and clopper_pearson(9, 9, 0.05)[1] == 1


def test_patients_whom_no_or_every_shadow_model_saw_are_refused() -> None:
    target, shadows, included, _ = game(1.0, 4, 4)
    for value in (True, False):
        spoilt = included.copy()
        spoilt[:, 5] = value
        with pytest.raises(ReportError, match="train more"):
            membership_scores(target, shadows, spoilt)


def test_one_shadow_model_of_each_kind_is_enough_to_score() -> None:
    target, shadows, included, member = game(4.0, 4, 5)  # every patient is out of one
    found = judge(membership_scores(target, shadows, included), member, lambda rate: 1.0, 4)
    assert found.auroc > 0.8


def test_the_json_says_what_was_found_and_an_edit_is_refused() -> None:
    target, shadows, included, member = game(2.0, 4, 6)
    found = judge(membership_scores(target, shadows, included), member, gaussian(2.0), 4)
    body = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert AttackResult.from_json(body) == found
    for edit in ({"passed": False}, {"members": 1}, {"schema": "x"}, {"more": 1}, {"rates": 3}):
        with pytest.raises(ReportError, match="Not a result"):
            AttackResult.from_json({**body, **edit})
