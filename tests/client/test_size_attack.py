"""A coordinator that bisects a setting from run to run learns the size class of a site, and no more of its size."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, MessageType, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from client.app import app
from client.release import Refusal
from mmmed.config import resolve
from privacy.errors import PlanError
from privacy.planning import plan_training, schedule, size_class
from privacy.report import read_statement
from tests.client.conftest import Hospital
from tests.client.requests import request
from tests.client.test_tuning import SETTINGS, make_clinic

Answer = tuple[object, ...]
SIZES = (1100, 1900)  # of whom half are trained on and half held out, so of the class of 512 both


@pytest.fixture
def clinics(tmp_path: Path) -> list[Hospital]:
    return [make_clinic(tmp_path / str(size), size) for size in SIZES]


def answer(clinic: Hospital, run: str, kind: str = MessageType.TRAIN, **changes: Any) -> Answer:
    """All that the coordinator is told about a run that differs from the usual one, but for the noisy numbers."""
    settings = SETTINGS | {"privacy.target_epsilon": "0.5", "privacy.metrics_epsilon": "0.5"}
    settings |= {key.replace("__", "."): str(value) for key, value in changes.items()}
    config = resolve(None, [f"{key}={value}" for key, value in settings.items()]).config
    context = Context(1, 1, {"site-dir": str(clinic.path)}, RecordDict(), {})
    reply = app(request(config, kind, **{"run-id": re.sub(r"\W", "-", run)[:64]}), context)
    if reply.has_error():
        return (reply.error.reason,)
    stated = read_statement(json.loads(str(reply.content["site"]["privacy.statement"])))
    told = (stated.event, stated.epsilon, stated.delta, stated.charged, stated.rule, stated.max_grad_norm)
    return (*told, stated.asked)


def bisect(ask: Callable[[float], Answer], low: float, high: float, steps: int) -> list[Answer]:
    """Close in on where the answer turns into a refusal."""
    told = []
    for _ in range(steps):
        middle = (low * high) ** 0.5
        told.append(ask(middle))
        low, high = (low, middle) if len(told[-1]) == 1 else (middle, high)
    return told


def test_with_a_stated_number_every_answer_is_that_of_any_other_size(clinics: list[Hospital]) -> None:
    # One trains on fewer patients than stated, and than min_patients; the other on more, of another class.
    for clinic, where in zip(clinics, SIZES, strict=True):
        clinic.sign(run__patients=700, run__min_patients=600)
        assert (where // 2 < 600) == (clinic is clinics[0])
    for batch in (64, 512, 700, 701):
        small, large = (answer(own, f"b{batch}", training__batch_size=batch) for own in clinics)
        assert small == large and (len(small) == 1) == (batch > 700)


def test_bisecting_the_batch_size_ends_at_the_size_class(clinics: list[Hospital]) -> None:
    transcripts = [
        bisect(lambda at, own=own: answer(own, f"b{at}", training__batch_size=round(at)), 64, 4096, 9)
        for own in clinics
    ]
    assert transcripts[0] == transcripts[1]
    assert {(Refusal.PLAN.value,)} < set(transcripts[0])  # both kinds of answer were given


@pytest.mark.parametrize("kind", [MessageType.TRAIN, MessageType.EVALUATE])
def test_bisecting_delta_ends_at_what_the_policy_allows(clinics: list[Hospital], kind: str) -> None:
    transcripts = [
        bisect(lambda at, own=own: answer(own, f"d{at}", kind, privacy__delta=at), 1e-5, 0.1, 8)
        for own in clinics
    ]
    assert transcripts[0] == transcripts[1]
    refusals = {told[0] for told in transcripts[0] if len(told) == 1}
    assert refusals == {Refusal.POLICY.value} and len(transcripts[0]) > len(refusals)


def test_a_policy_whose_delta_does_not_suit_the_site_refuses_whatever_is_asked(
    clinics: list[Hospital],
) -> None:
    large = clinics[1]
    large.sign(run__delta=2e-3, limit__delta=2e-3, period__delta=2e-3, by_two=True)
    assert (
        answer(large, "a", privacy__delta=1e-3)
        == answer(large, "b", privacy__delta=1e-9)
        == (Refusal.PLAN.value,)
    )
    assert answer(large, "c", MessageType.EVALUATE, privacy__delta=1e-9) == (Refusal.PLAN.value,)


@given(
    st.integers(1, 5000),
    st.floats(0, 1),
    st.integers(1, 12_000),
    st.floats(0.1, 20),
)
def test_a_schedule_or_its_refusal_depends_on_the_size_class_alone(
    patients: int, share: float, batch: int, epochs: float
) -> None:
    other = size_class(patients) + int(share * (size_class(patients) - 1))

    def told(size: int) -> tuple[float, int] | None:
        try:
            return schedule(patients=size, batch_size=batch, local_epochs=epochs)
        except PlanError:
            return None

    assert told(patients) == told(other)
    assert batch > patients or told(patients) is not None  # what fits is never refused


def test_a_delta_that_may_be_asked_is_below_one_over_the_patients() -> None:
    ask: dict[str, Any] = {
        "batch_size": 8,
        "local_epochs": 1,
        "rounds": 1,
        "target_epsilon": 4,
        "patients": 50,
    }
    plan_training(**ask, delta=1e-6, largest_delta=0.019)
    with pytest.raises(PlanError, match="1 / patients"):
        plan_training(**ask, delta=1e-6, largest_delta=0.02)


def test_single_steps_are_answered_alike_by_sites_of_any_size(tmp_path: Path) -> None:
    """Of other classes, without a stated number: rate, noise and signed statement follow from the run alone."""
    clinics = [make_clinic(tmp_path / str(size), size) for size in (500, 1100, 1900)]
    steps = {
        "federation__release": "'steps'",
        "federation__sampling_rate": 0.05,
        "training__optimizer": "'sgd'",
        "training__local_epochs": 4.0,
    }
    for changes in ({}, {"training__batch_size": 4000}, {"federation__rounds": 5}):
        answers = [answer(own, f"s{changes}", **steps, **changes) for own in clinics]
        assert answers[0] == answers[1] == answers[2] and len(answers[0]) > 1
        assert answers[0][-1].patients is None  # type: ignore[attr-defined]
