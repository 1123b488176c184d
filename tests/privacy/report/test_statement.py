from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from privacy.accounting import DpSgdEvent, epsilon
from privacy.errors import ReportError
from privacy.ledger import Budget, Ledger, dataset_identity
from privacy.report import Shared, read_statement, sign_statement
from privacy.report.statement import MAX_BYTES, seal
from tests.privacy.report.conftest import ASKED, DELTA, EVENT, RUN, State


def test_a_statement_says_what_the_ledger_holds(state_run: State) -> None:
    value = json.loads(json.dumps(state_run(rounds=3, steps=3)))
    stated = read_statement(value)
    assert (stated.site, stated.run_id, stated.event, stated.delta) == ("north", RUN, EVENT, DELTA)
    assert stated.charged == ((1, 3, 3),) and stated.steps == 9
    assert stated.epsilon == epsilon([EVENT], DELTA)
    assert stated.policies == ((1, hashlib.sha256(b"policy of north").hexdigest()),)
    assert stated.asked == ASKED and len(stated.ledger) == 32
    assert len(json.dumps(value)) < MAX_BYTES


def test_it_tells_nothing_of_patients_or_of_other_runs(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    with Ledger.open(tmp_path / "ledger.db", key, limit=Budget(100.0, DELTA)) as ledger:
        patients = dataset_identity([f"SMITH^{n}" for n in range(37)], b"s" * 32)
        other = ledger.plan(patients, "another-consortium", DpSgdEvent(3.25, 0.5, 4), DELTA, 1.0)
        ledger.reserve(other, 1, 4).commit(4)
        plan = ledger.plan(patients, RUN, EVENT, DELTA, max_grad_norm=1.0)
        ledger.reserve(plan, 1, 5).commit(2)
        ledger.reserve(plan, 2, 3)  # never committed: a crash
        text = json.dumps(sign_statement(ledger, plan, site="north", key=key, metrics_shown=False))
    assert json.loads(text)["charged"] == [[1, 1, 2], [2, 2, 3]]
    for private in ("SMITH", "another-consortium", "3.25", patients.fingerprint, "seq"):
        assert private not in text


def test_each_charge_names_the_policy_under_which_it_was_made(tmp_path: Path) -> None:
    key, limit = Ed25519PrivateKey.generate(), Budget(100.0, DELTA)
    first, second = (hashlib.sha256(text.encode()).hexdigest() for text in ("first\r\n", "second"))
    with Ledger.open(tmp_path / "ledger.db", key, limit=limit) as ledger:
        ledger.record_policy("never charged under", limit, officer="aa", replaces=None)
        ledger.record_policy("first\r\n", limit, officer="aa", replaces="never charged under")
        patients = dataset_identity(["a"], b"s" * 32)
        plan = ledger.plan(patients, RUN, EVENT, DELTA, max_grad_norm=1.0)
        assert ledger.charged_policies(RUN) == ()
        for number in (1, 2):
            ledger.reserve(plan, number, 3).commit(3)
        ledger.record_policy("second", limit, officer="aa", replaces="first\r\n")
        ledger.reserve(plan, 3, 3)
        stated = read_statement(sign_statement(ledger, plan, site="north", key=key, metrics_shown=False))
        assert stated.policies == ((1, first), (3, second))
        ledger.verify()
    with Ledger.open(tmp_path / "ledger.db", key, limit=limit) as ledger:
        assert ledger.charged_policies(RUN) == stated.policies


def test_a_statement_of_before_policies_were_named_is_read(state_run: State) -> None:
    key = Ed25519PrivateKey.generate()
    now = {name: item for name, item in state_run(key=key).items() if name != "signature"}
    ledger = {"seq": 10, **now["ledger"]}
    before = {name: item for name, item in now.items() if name != "shared"}
    before["schema"] = "mmmed-privacy-statement/3"
    assert read_statement(seal(before, key)).asked == ASKED
    before = {name: item for name, item in before.items() if name != "asked"} | {"ledger": ledger}
    before["schema"] = "mmmed-privacy-statement/2"
    assert read_statement(seal(before, key)).asked is None
    before["schema"] = "mmmed-privacy-statement/1"
    with pytest.raises(ReportError, match="fields"):
        read_statement(seal(before, key))
    del before["policies"]
    assert read_statement(seal(before, key)).policies is None
    for changed in ({"schema": now["schema"]}, {"ledger": now["ledger"]}):
        with pytest.raises(ReportError, match=r"fields|ledger"):
            read_statement(seal(before | changed, key))


@pytest.mark.parametrize(
    "asked",
    [
        {},
        [8.0, 3, 32, True],
        {"target_epsilon": 0.0, "rounds": 3, "patients": 32, "stated": True},
        {"target_epsilon": 8.0, "rounds": 0, "patients": 32, "stated": True},
        {"target_epsilon": 8.0, "rounds": 3, "patients": True, "stated": True},
        {"target_epsilon": 8.0, "rounds": 3, "patients": 32, "stated": 1},
    ],
)
def test_what_was_asked_is_read_whole_or_not_at_all(state_run: State, asked: Any) -> None:
    key = Ed25519PrivateKey.generate()
    with pytest.raises(ReportError, match="is not readable"):
        read_statement(seal(state_run(key=key) | {"asked": asked}, key))


@pytest.mark.parametrize(
    "policies",
    [
        None,
        "a" * 64,
        ["a" * 64],
        [[1, "A" * 64]],
        [[1, "a" * 63]],
        [[0, "a" * 64]],
        [[1.0, "a" * 64]],
        [[1, "a" * 64, 2]],
        [[1, 7]],
    ],
)
def test_a_policy_that_is_not_named_by_its_digest_is_refused(state_run: State, policies: Any) -> None:
    key = Ed25519PrivateKey.generate()
    with pytest.raises(ReportError, match=r"policies|whole number"):
        read_statement(seal(state_run(key=key) | {"policies": policies}, key))


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all leaves of a JSON value."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, item in items for leaf in leaves(item, (*path, key))]
    return [path]


def test_no_leaf_can_be_edited(state_run: State) -> None:
    value = state_run(shared=Shared(4, 3, 4, 2))
    for path in leaves(value):
        edited = copy.deepcopy(value)
        parent = edited
        for key in path[:-1]:
            parent = parent[key]
        old = parent[path[-1]]
        parent[path[-1]] = not old if isinstance(old, bool) else old + ("0" if isinstance(old, str) else 1)
        with pytest.raises(ReportError):
            read_statement(edited)
    for name in value:
        with pytest.raises(ReportError):
            read_statement({key: item for key, item in value.items() if key != name})
    with pytest.raises(ReportError):
        read_statement(value | {"patients": 40})


def test_a_plan_that_bounds_nothing_is_refused_before_it_is_computed(state_run: State) -> None:
    key = Ed25519PrivateKey.generate()
    honest = {name: item for name, item in state_run(key=key).items() if name != "signature"}
    read_statement(seal(honest, key))
    for sigma, rate, steps in (
        (0.0625, 1.0, 10**6),
        (1e-9, 0.5, 1),
        (5.0, 1e-6, 10**8),
        (1e300, 1e-300, 10**30),
    ):
        event = EVENT.to_json() | {"noise_multiplier": sigma, "sampling_rate": rate, "steps": steps}
        with pytest.raises(ReportError):
            read_statement(seal(honest | {"event": event}, key))
    for changed in (
        {"delta": 1e-12},
        {"delta": 1.5},
        {"charged": [[1, 10**9, 1]]},
        {"charged": [[2, 2, 1], [1, 1, 1]]},
    ):
        with pytest.raises(ReportError):
            read_statement(seal(honest | changed, key))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["schema", "key", "site"]), inner),
    )
)
def test_garbage_is_refused(value: Any) -> None:
    with pytest.raises(ReportError):
        read_statement(value)
