"""Events are validated, merge, and can be read for ever."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.accounting import DpSgdEvent, merge
from privacy.errors import AccountingError

EVENTS = st.builds(
    DpSgdEvent,
    st.floats(0.1, 100),
    st.floats(1e-6, 1.0),
    st.integers(0, 10_000),
)


@given(EVENTS)
def test_json_round_trip_is_exact(event: DpSgdEvent) -> None:
    assert DpSgdEvent.from_json(json.loads(json.dumps(event.to_json()))) == event


def test_version_1_can_always_be_read() -> None:
    text = (
        '{"version": 1, "mechanism": "poisson_subsampled_gaussian", '
        '"noise_multiplier": 1.25, "sampling_rate": 0.05, "steps": 7}'
    )
    assert DpSgdEvent.from_json(json.loads(text)) == DpSgdEvent(1.25, 0.05, 7)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"mechanism": "laplace"},
        {"steps": -1},
        {"steps": 1.5},
        {"noise_multiplier": 0},
        {"noise_multiplier": "1"},
        {"sampling_rate": True},
        {"extra": 1},
    ],
)
def test_what_is_not_an_event_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(AccountingError):
        DpSgdEvent.from_json(DpSgdEvent(1.0, 0.5, 3).to_json() | change)


def test_a_missing_field_is_refused() -> None:
    value = DpSgdEvent(1.0, 0.5, 3).to_json()
    del value["steps"]
    with pytest.raises(AccountingError, match="steps"):
        DpSgdEvent.from_json(value)


@pytest.mark.parametrize(
    ("sigma", "rate", "steps", "name"),
    [
        (0.0, 0.5, 1, "noise_multiplier"),
        (math.inf, 0.5, 1, "noise_multiplier"),
        (math.nan, 0.5, 1, "noise_multiplier"),
        (1.0, 0.0, 1, "sampling_rate"),
        (1.0, 1.01, 1, "sampling_rate"),
        (1.0, math.nan, 1, "sampling_rate"),
        (1.0, 0.5, -1, "steps"),
        (1.0, 0.5, True, "steps"),
    ],
)
def test_bad_values_are_refused_by_name(sigma: float, rate: float, steps: int, name: str) -> None:
    with pytest.raises(AccountingError, match=name):
        DpSgdEvent(sigma, rate, steps)


@given(st.lists(EVENTS))
def test_merging_keeps_every_step_once(events: list[DpSgdEvent]) -> None:
    merged = merge(events)
    keys = [(event.noise_multiplier, event.sampling_rate) for event in merged]
    assert len(set(keys)) == len(keys)
    assert sum(event.steps for event in merged) == sum(event.steps for event in events)
    assert merge(merged) == merged


def test_merging_keeps_the_order_of_first_use_and_drops_nothing_but_zeros() -> None:
    a, b = DpSgdEvent(1.0, 0.1, 2), DpSgdEvent(2.0, 0.1, 3)
    assert merge([a, DpSgdEvent(3.0, 0.1, 0), b, a]) == (DpSgdEvent(1.0, 0.1, 4), b)


def test_importing_the_accounting_loads_neither_torch_nor_an_accountant() -> None:
    code = "import privacy.accounting, sys; print({'torch', 'opacus', 'scipy', 'dp_accounting'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
