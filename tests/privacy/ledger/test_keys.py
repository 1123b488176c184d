"""The keys that name patients are pinned: under others everybody would be a stranger with a budget of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy.accounting import DpSgdEvent, epsilon
from privacy.errors import BudgetExceeded, LedgerError
from privacy.ledger import Budget, DatasetIdentity, Ledger, Plan, dataset_identity, verify_export
from tests.privacy.ledger.cohort import SECRET

Open = Callable[[], Ledger]
DEAR = DpSgdEvent(1.1, 0.1, 150)  # twice is more than the limit
CHEAP = DpSgdEvent(5.0, 0.01, 100)


def _named(*ids: int, by: str = "first key", secret: bytes = SECRET) -> DatasetIdentity:
    """These people, as an ingest under a key names them."""
    return dataset_identity((f"{by}/{i}" for i in ids), secret, by)


def _run(ledger: Ledger, name: str, patients: DatasetIdentity, event: DpSgdEvent = DEAR) -> Plan:
    plan = ledger.plan(patients, name, event, 1e-5, 1.0)
    ledger.reserve(plan, 1, event.steps)
    return plan


def _change(ledger: Ledger, patients: DatasetIdentity, text: str = "new") -> None:
    ledger.record_policy(text, ledger.limit, officer="aa", replaces=ledger.policy, keys=patients.keys)


@pytest.mark.parametrize("other", [_named(1, by="second key"), _named(1, secret=SECRET[::-1])])
def test_other_keys_do_not_make_patients_anew(reopen: Open, other: DatasetIdentity) -> None:
    with reopen() as ledger:
        assert ledger.keys is None
        _run(ledger, "first", _named(1, 2))
        assert ledger.keys == _named(3).keys != other.keys
    with reopen() as ledger:
        for attempt in (
            lambda: ledger.plan(other, "again", CHEAP, 1e-5, 1.0),
            lambda: ledger.check(other, CHEAP, 1e-5),
        ):
            with pytest.raises(LedgerError, match="named by other keys") as refusal:
                attempt()
            assert other.keys in str(refusal.value) and str(ledger.keys) in str(refusal.value)
        _run(ledger, "same keys", _named(3), CHEAP)


def test_a_change_of_keys_carries_the_largest_spend_to_everybody(
    reopen: Open, key: Ed25519PrivateKey
) -> None:
    with reopen() as ledger:
        _run(ledger, "dear", _named(1), DpSgdEvent(1.5, 0.05, 400))
        _run(ledger, "cheap", _named(2), CHEAP)
        before = ledger.spent(1e-5), ledger.filter_epsilon()
        stranger = _named(77, by="second key")
        _change(ledger, stranger)
        assert (ledger.spent(1e-5), ledger.filter_epsilon()) == before
        with pytest.raises(BudgetExceeded):
            _run(ledger, "dear again", stranger)
        assert not ledger.admits(DEAR, 1e-5)
        _run(ledger, "modest", stranger, DpSgdEvent(1.5, 0.05, 100))
        assert ledger.spent(1e-5) == epsilon([DpSgdEvent(1.5, 0.05, 500)], 1e-5)
        with pytest.raises(LedgerError, match="other keys"):
            _run(ledger, "old keys", _named(2), CHEAP)
        assert ledger.verify() == ledger.head.seq
        assert verify_export(ledger.export(), key.public_key()).keys == stranger.keys
    with reopen() as ledger:
        assert ledger.keys == stranger.keys


def test_going_back_and_forth_gains_nothing(reopen: Open) -> None:
    with reopen() as ledger:
        _run(ledger, "dear", _named(1))
        _change(ledger, _named(1, by="second key"), "second")
        _change(ledger, _named(1), "back")
        for people in (_named(1), _named(99)):
            with pytest.raises(BudgetExceeded):
                _run(ledger, "again", people)


def test_a_plan_from_before_the_change_is_charged_no_more(reopen: Open) -> None:
    with reopen() as ledger:
        plan = ledger.plan(_named(1), "early", CHEAP, 1e-5, 1.0)
        held = ledger.reserve(plan, 1, 10)
        _change(ledger, _named(1, by="second key"))
        with pytest.raises(LedgerError, match="start a new run"):
            ledger.reserve(plan, 2, 10)
        held.commit(4)  # what ran before may still be told
        assert sum(event.steps for event in ledger.events("early")) == 4
        ledger.verify()


def test_a_policy_may_state_the_keys_before_anything_was_planned(reopen: Open) -> None:
    with reopen() as ledger:
        _change(ledger, _named(1))
        with pytest.raises(LedgerError, match="other keys"):
            _run(ledger, "other", _named(1, by="second key"))
        _run(ledger, "first", _named(1))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["run", "change"]),
            st.sets(st.integers(0, 3), min_size=1),
            st.floats(0.8, 3.0),
            st.integers(1, 300),
        ),
        max_size=10,
    )
)
def test_no_change_of_keys_spends_a_person_beyond_the_limit(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, set[int], float, int]]
) -> None:
    path: Path = tmp_path_factory.mktemp("ledger") / "l.db"
    released: dict[int, list[DpSgdEvent]] = {person: [] for person in range(4)}
    limit, naming = Budget(4.0, 1e-5), 0
    with Ledger.open(path, Ed25519PrivateKey.generate(), limit=limit) as ledger:
        for number, (kind, people, sigma, count) in enumerate(steps):
            if kind == "change":
                naming += 1
                _change(ledger, _named(0, by=f"key {naming}"), f"policy {naming}")
                continue
            event = DpSgdEvent(round(sigma, 3), 0.1, count)
            try:
                _run(ledger, f"run-{number}", _named(*people, by=f"key {naming}"), event)
            except BudgetExceeded:
                continue
            for person in people:
                released[person].append(event)
        worst = max(epsilon(events, limit.delta) for events in released.values())
        assert worst <= limit.epsilon
        assert worst <= ledger.spent(limit.delta) * (1 + 1e-3) + 1e-6
        ledger.verify()
