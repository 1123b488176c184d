"""Each check by itself: how often it errs on ideal input, what it says of its edges, and the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from privacy.accounting import DpSgdEvent, epsilon
from privacy.audit import FALSE_ALARM_RATE, AuditResult, Bound, Check, demo_subject
from privacy.audit.noise import NoiseSample, law_checks, size_checks
from privacy.audit.result import LEVEL, STATISTICAL
from privacy.audit.sampler import sampler_checks
from privacy.audit.subject import seeded
from privacy.errors import ReportError, StepError

RUNS = 200


def ideal_noise(generator: np.random.Generator) -> NoiseSample:
    batch, empty, again = generator.standard_normal((3, 16, 60))
    return NoiseSample(batch + 3.0, empty, again, {"weight": slice(0, 50), "bias": slice(50, 60)})


def noise_checks(sample: NoiseSample) -> list[Check]:
    return [*size_checks(sample), *law_checks(sample, [sample.empty[:, :40]])]


def seldom(p_values: np.ndarray) -> None:
    """No more p-values below 0.05 than 5 %, but for chance."""
    assert stats.binom.sf((p_values < 0.05).sum() - 1, len(p_values), 0.05) > 1e-6


def test_noise_checks_err_no_more_often_than_their_p_values_say() -> None:
    generator = np.random.default_rng(0)
    runs = [[check.p_value for check in noise_checks(ideal_noise(generator))] for _ in range(RUNS)]
    for p_values in np.array(runs).T:
        seldom(p_values)


@pytest.mark.parametrize("rate", [0.004, 0.1, 0.5, 1.0])
def test_sampler_checks_err_no_more_often_than_their_p_values_say(rate: float) -> None:
    subject = replace(demo_subject(), claim=DpSgdEvent(1.0, rate, 10))
    generator = np.random.default_rng(1)

    def draws(units: int, steps: int) -> Iterator[np.ndarray]:
        yield from (np.flatnonzero(row) for row in generator.random((steps, units)) < rate)

    subject = replace(subject, make_sampler=draws)
    runs = [[check.p_value for check in sampler_checks(subject)] for _ in range(30)]
    for p_values in np.array(runs).T:
        seldom(p_values)


def test_more_noise_than_claimed_and_a_lower_rate_are_no_violation_of_c1_to_c4() -> None:
    generator = np.random.default_rng(2)
    sample = ideal_noise(generator)
    louder = NoiseSample(2 * sample.batch, 2 * sample.empty, 2 * sample.again, sample.tensors)
    assert all(check.passed for check in noise_checks(louder))


def test_noise_that_is_not_finite_or_missing_is_a_violation() -> None:
    sample = ideal_noise(np.random.default_rng(3))
    for spoilt in (
        replace(sample, empty=np.where(sample.empty > 2, np.nan, sample.empty)),
        replace(sample, empty=np.zeros((0, 0))),
        replace(sample, empty=sample.empty[:-1]),
        replace(sample, again=sample.again[:0]),
    ):
        assert not all(check.passed for check in noise_checks(spoilt))


def test_a_p_value_that_is_not_a_number_fails() -> None:
    assert not Check("C1", "claim", "found", float("nan")).passed


def test_public_random_states_are_restored() -> None:
    torch.manual_seed(5)
    np_before, expected = np.random.get_state()[1].copy(), torch.rand(3)  # type: ignore[index,union-attr]  # noqa: NPY002
    torch.manual_seed(5)
    with seeded(0):
        torch.rand(10)
        np.random.rand(10)  # noqa: NPY002
    assert torch.equal(torch.rand(3), expected)
    assert (np.random.get_state()[1] == np_before).all()  # type: ignore[index]  # noqa: NPY002


def result() -> AuditResult:
    return AuditResult(
        claim=DpSgdEvent(1.0, 0.1, 10),
        delta=1e-5,
        parameters=7,
        quick=True,
        canaries=5,
        checks=(Check("C1", "a", "b", 1.0), Check("C7", "c", "d", 0.0), Check("C2", "e", "f", float("nan"))),
        bounds=(Bound("E1", "one run", 0.5, float("inf"), 10),),
    )


def test_the_json_is_strict_and_says_what_the_result_says() -> None:
    body = json.loads(json.dumps(result().to_json(), allow_nan=False))
    assert (body["passed"], body["violations"]) == (False, ["C7", "C2"])
    assert body["claimed_epsilon"] == epsilon([DpSgdEvent(1.0, 0.1, 10)], 1e-5)
    assert body["false_alarm_rate"] == FALSE_ALARM_RATE
    assert [check["passed"] for check in body["checks"]] == [True, False, False]
    assert body["bounds"][0]["epsilon_at_least"] == 0.5 and body["bounds"][0]["claimed_epsilon"] is None
    assert "VIOLATION: C7, C2" in result().to_text()
    assert AuditResult.from_json(body).to_json() == body


@pytest.mark.parametrize(
    "edit",
    [{"passed": True}, {"violations": []}, {"claimed_epsilon": 0.1}, {"claimed_epsilon": None}, {"checks": []},
     {"schema": "x"}, {"delta": 0}, {"false_alarm_rate": 0.5}, {"more": 1}],
)  # fmt: skip
def test_a_result_that_contradicts_itself_is_refused(edit: dict[str, Any]) -> None:
    with pytest.raises(ReportError, match="Not a result"):
        AuditResult.from_json({**result().to_json(), **edit})
    with pytest.raises(ReportError):
        AuditResult.from_json([])


@pytest.mark.parametrize(
    "units", [torch.arange(9), torch.arange(1, 12), torch.arange(20) * 2, torch.arange(0)]
)
def test_too_few_or_gappy_units_are_refused(units: torch.Tensor) -> None:
    with pytest.raises(StepError, match="at least 10 units"):
        replace(demo_subject(), units=units)


def test_the_stated_false_alarm_rate_covers_all_checks_that_rest_on_chance() -> None:
    assert len(STATISTICAL) * LEVEL == pytest.approx(FALSE_ALARM_RATE)
