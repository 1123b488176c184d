"""Faulty code is flagged, by the checks that should see it; correct code is not."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
from torch import nn

from privacy.audit import Subject, audit, demo_subject
from privacy.audit.result import STATISTICAL, Check
from privacy.audit.run import parts
from privacy.clipping.engine import EngineName
from tests.privacy.audit.faults import FAULTS
from tests.privacy.audit.step_faults import TextbookStep, textbook

CERTAIN = {"S1", "S2", "S3", "S5", "S6", "S7", "S8", "S9", "C7", "C10", "C11"}


@functools.cache
def correct() -> Subject:
    return demo_subject(4.0)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_flagged(name: str) -> None:
    """By the checks that should see it; `catch_rates` makes all others as well."""
    plant, expected = FAULTS[name]
    found = [one for part in parts(plant(correct()), quick=True) if part.codes & expected for one in part()]
    assert expected <= {one.code for one in found if isinstance(one, Check) and not one.passed}, found


def test_an_audit_of_faulty_code_fails() -> None:
    plant, expected = FAULTS["a tenth of the noise"]
    result = audit(plant(correct()), quick=True)
    assert not result.passed and expected <= {check.code for check in result.violations}, result.to_text()


@pytest.mark.parametrize(
    ("target_epsilon", "engine"),
    [(1.0, "bookkeeping"), (4.0, "hooks"), pytest.param(8.0, "ghost", marks=pytest.mark.slow)],
)
def test_the_engine_passes(target_epsilon: float, engine: EngineName) -> None:
    subject = demo_subject(target_epsilon, engine)
    result = audit(subject, quick=True)
    assert result.passed, result.to_text()
    assert {bound.code for bound in result.bounds} == {"E1", "E2", "E3", "E4"}
    codes = [code for part in parts(subject, quick=True) for code in part.codes]
    assert len(codes) == len(set(codes))  # every check and bound is of one part
    assert {one.code for one in (*result.checks, *result.bounds)} == set(codes)
    checked = [check.code for check in result.checks]
    assert sorted(set(checked) - CERTAIN) == sorted(STATISTICAL) and len(checked) == len(set(checked))
    if target_epsilon > 1:  # so few steps cannot tell a smaller epsilon from 0 each time
        assert result.bounds[2].epsilon > 0.25 * target_epsilon  # the bound says something


def test_another_correct_implementation_passes() -> None:
    result = audit(textbook(TextbookStep)(correct()), quick=True)
    assert result.passed, result.to_text()


def test_a_model_that_the_step_refuses_is_a_violation() -> None:
    subject = correct()

    def make_model() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, 2))

    result = audit(replace(subject, make_model=make_model), quick=True)
    assert not result.passed and {check.code for check in result.violations} == {"S1", "S4"}
    assert "BatchNorm2d" in result.to_text()
