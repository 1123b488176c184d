"""A sweep in the ledger: charged whole before its first trial, counted with everything else, refused if unknown."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy.accounting import DpSgdEvent, SelectionEvent, adaptive_epsilon, claimed_epsilon
from privacy.errors import BudgetExceeded, LedgerError
from privacy.keys import load_or_create_key
from privacy.ledger import Budget, Ledger, Plan, charged_event, verify_export
from privacy.ledger.admission import ORDERS
from tests.privacy.ledger.cohort import patients

Open = Callable[[], Ledger]
RUN = DpSgdEvent(1.5, 0.05, 200)
SWEEP = SelectionEvent((DpSgdEvent(3.0, 0.05, 200), DpSgdEvent(3.1, 0.1, 50)), 10.0, 1.0)
ALL = patients(*range(100))


def _plan(ledger: Ledger, run_id: str, event: DpSgdEvent | SelectionEvent, purpose: str = "tuning") -> Plan:
    return ledger.plan(ALL, run_id, event, 1e-5, 1.0, purpose)


def test_a_sweep_is_planned_reserved_and_read_again_like_a_run(reopen: Open, key: Ed25519PrivateKey) -> None:
    with reopen() as ledger:
        plan = _plan(ledger, "sweep", SWEEP)
        assert plan.epsilon == claimed_epsilon([SWEEP], 1e-5)
        ledger.reserve(plan, 1, 1).commit(1)
        _plan(ledger, "run", RUN, "training")
    with reopen() as ledger:
        assert ledger.find_plan("sweep") == plan
        assert ledger.events("sweep") == (SWEEP,)
        assert ledger.spent(1e-5) == plan.epsilon
        assert ledger.filter_epsilon() == adaptive_epsilon([SWEEP, RUN], 1e-5, ORDERS)
        assert ledger.filter_epsilon(RUN) == adaptive_epsilon([SWEEP, RUN, RUN], 1e-5, ORDERS)
        assert (
            verify_export(json.loads(json.dumps(ledger.export())), key.public_key()).accounts["sweep"].plan
            == plan
        )
        ledger.verify()
        with pytest.raises(BudgetExceeded, match="all 1 steps"):
            ledger.reserve(plan, 1, 1)


def test_a_sweep_stays_charged_in_full_when_it_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from privacy.keys import load_or_create_key; from privacy.ledger import Budget, Ledger\n"
        "from tests.privacy.ledger.test_sweeps import ALL, SWEEP\n"
        "folder = Path(sys.argv[1])\n"
        "ledger = Ledger.open(folder / 'ledger.db', load_or_create_key(folder / 'key'), limit=Budget(8.0, 1e-5))\n"
        "reservation = ledger.reserve(ledger.plan(ALL, 'sweep', SWEEP, 1e-5, 1.0, 'tuning'), 1, 1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[3], check=False
    )
    assert ended.returncode == -signal.SIGKILL
    key = load_or_create_key(tmp_path / "key")
    with Ledger.open(tmp_path / "ledger.db", key, limit=Budget(8.0, 1e-5)) as ledger:
        assert ledger.spent(1e-5) == claimed_epsilon([SWEEP], 1e-5)
        with pytest.raises(BudgetExceeded):  # and cannot be run again under the same charge
            ledger.reserve(ledger.find_plan("sweep"), 1, 1)


def test_a_sweep_may_be_planned_with_runs_before_any_data_is_used(path: Path, key: Ed25519PrivateKey) -> None:
    together = claimed_epsilon([SWEEP, RUN], 1e-5)
    assert together < adaptive_epsilon([SWEEP, RUN], 1e-5, ORDERS)
    with Ledger.open(path, key, limit=Budget(together, 1e-5)) as ledger:
        assert _plan(ledger, "sweep", SWEEP).rule == "adaptive"
        plan = _plan(ledger, "run", RUN)
        assert plan.rule == "planned"
        ledger.reserve(ledger.find_plan("sweep"), 1, 1)
        with pytest.raises(BudgetExceeded):
            _plan(ledger, "another", DpSgdEvent(100.0, 0.05, 1))


def test_what_is_charged_never_is_less_than_what_runs() -> None:
    fine = SelectionEvent((DpSgdEvent(3.00019, 1 / 7, 20),), 10.0, 1.0)
    assert charged_event(fine).trials == (DpSgdEvent(3.0001, 0.142857142858, 20),)
    assert claimed_epsilon([charged_event(fine)], 1e-5) >= claimed_epsilon([fine], 1e-5)


def test_a_run_cannot_take_a_sweeps_name(reopen: Open) -> None:
    with reopen() as ledger:
        plan = _plan(ledger, "sweep", SWEEP)
        with pytest.raises(LedgerError, match="is a sweep"):
            plan.mechanism  # noqa: B018
        with pytest.raises(LedgerError, match="another mechanism"):
            _plan(ledger, "sweep", RUN, "training")


@pytest.mark.parametrize("change", [{"version": 2}, {"mechanism": "later"}, {"shape": -1}])
def test_a_kind_of_event_that_is_not_known_refuses_the_ledger(
    path: Path, key: Ed25519PrivateKey, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    """As a later version would write it: signed and chained, but not known here."""
    limit = Budget(8.0, 1e-5)
    with Ledger.open(path, key, limit=limit) as ledger:
        _plan(ledger, "sweep", SWEEP)
        work = ledger._chain
        plan = {**_plan(ledger, "sweep", SWEEP).to_json(), "run_id": "new", "event": SWEEP.to_json() | change}
        with pytest.raises(LedgerError, match="cannot read"), work.transaction() as transaction:
            transaction.append(ledger._entry("plan", plan=plan))
        monkeypatch.setattr(type(ledger._state), "apply", lambda self, body: None)
        with work.transaction() as transaction:
            transaction.append(ledger._entry("plan", plan=plan))
        monkeypatch.undo()
    with pytest.raises(LedgerError, match="Update the software"):
        Ledger.open(path, key, limit=limit)


@given(
    st.lists(
        st.one_of(
            st.builds(DpSgdEvent, st.floats(2, 30), st.floats(0.01, 1.0), st.integers(1, 50)),
            st.builds(
                lambda noise, rate, mean, shape: SelectionEvent((DpSgdEvent(noise, rate, 20),), mean, shape),
                st.floats(2, 30), st.floats(0.01, 1.0), st.floats(1, 50), st.sampled_from([0.0, 1.0]),
            ),
        ),
        max_size=8,
    )
)  # fmt: skip
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_order_of_runs_and_sweeps_passes_the_limit(
    tmp_path_factory: pytest.TempPathFactory, events: list[DpSgdEvent | SelectionEvent]
) -> None:
    path, limit = tmp_path_factory.mktemp("site") / "ledger.db", Budget(4.0, 1e-5)
    with Ledger.open(path, Ed25519PrivateKey.generate(), limit=limit) as ledger:
        for number, event in enumerate(events):
            try:
                plan = _plan(ledger, str(number), event)
                ledger.reserve(plan, 1, plan.event.steps)
            except BudgetExceeded:
                continue
        assert claimed_epsilon(ledger.events(), 1e-5) <= limit.epsilon
