"""What a site's plan follows from: a number that its policy states, or the class of its size."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmmed.config import resolve
from mmmed.demo.hospitals import HOSPITALS
from privacy.errors import PlanError, PolicyRefusal
from privacy.planning import delta_is_large, plan_training, schedule, size_class
from privacy.policy import SitePolicy
from tests.privacy.test_policy import TEXT

ASK = {"batch_size": 64, "local_epochs": 1.0, "rounds": 2, "target_epsilon": 4.0, "delta": 1e-5}
STATED = TEXT.replace("min_patients = 100", "min_patients = 100\npatients = 200", 1)


@settings(max_examples=30, deadline=None)
@given(patients=st.integers(1, 10_000), stated=st.sampled_from([100, 255, 256]))
def test_a_stated_number_decides_alone(patients: int, stated: int) -> None:
    plan = plan_training(patients=patients, stated=stated, largest_delta=1e-3, **ASK)  # type: ignore[arg-type]
    assert plan == plan_training(patients=1, stated=stated, **ASK)  # type: ignore[arg-type]
    assert plan.sampling_rate == 64 / stated


def test_neighbours_on_either_side_of_a_class_show_it_unless_a_number_is_stated() -> None:
    few, many = (schedule(patients=n, batch_size=64, local_epochs=1) for n in (255, 256))
    assert few != many and (size_class(255), size_class(256)) == (128, 256)
    few, many = (schedule(patients=n, batch_size=64, local_epochs=1, stated=200) for n in (255, 256))
    assert few == many


@given(patients=st.integers(1, 10_000))
def test_what_a_stated_number_refuses_it_refuses_whatever_the_site_has(patients: int) -> None:
    with pytest.raises(PlanError, match=r"training\.batch_size"):
        schedule(patients=patients, batch_size=201, local_epochs=1, stated=200)
    with pytest.raises(PlanError, match="1 / patients"):
        plan_training(patients=patients, stated=200, **ASK | {"delta": 0.005})  # type: ignore[arg-type]


@given(patients=st.integers(0, 300))
def test_a_policy_that_states_a_number_refuses_no_training_for_the_count(patients: int) -> None:
    stated, silent = SitePolicy.parse(STATED), SitePolicy.parse(TEXT)
    assert (stated.patients, silent.patients) == (200, None)
    stated.check_plan("training", 0.5, patients)
    if patients < 100:
        with pytest.raises(PolicyRefusal):
            silent.check_plan("training", 0.5, patients)


@pytest.mark.parametrize(
    ("before", "after", "wider"),
    [
        (None, None, False),
        (200, 300, False),
        (200, 200, False),
        (200, 199, True),
        (200, None, True),
        (None, 200, True),
    ],
)
def test_a_number_may_only_grow_without_a_second_officer(
    before: int | None, after: int | None, wider: bool
) -> None:
    old, new = (
        SitePolicy.parse(
            TEXT if number is None else STATED.replace("patients = 200", f"patients = {number}", 1)
        )
        for number in (before, after)
    )
    assert old.widened_by(new) == (("run.patients",) if wider else ())


def test_the_default_delta_suits_the_generated_hospitals() -> None:
    delta = resolve(None, ()).config.privacy.delta
    assert not delta_is_large(delta, max(hospital.patients for hospital in HOSPITALS))
    assert delta_is_large(1e-3, 101) and not delta_is_large(1e-3, 100)
