"""Plan, reserve, run, commit: what is charged, what is admitted, what is refused."""

from __future__ import annotations

import copy
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy.accounting import DpSgdEvent, adaptive_epsilon, calibrate_noise_multiplier, epsilon
from privacy.errors import BudgetExceeded, LedgerError
from privacy.ledger import Budget, Ledger, Sublimit, charged_event, dataset_identity, verify_export
from privacy.ledger.state import State
from tests.privacy.ledger.cohort import SECRET, patients

Open = Callable[[], Ledger]
RUN = DpSgdEvent(1.5, 0.05, 200)  # PLD 2.35; filter 2.94 once, 10.0 ten times
ALL = patients(*range(100))


def _plan(ledger: Ledger, run_id: str = "run", event: DpSgdEvent = RUN, dataset=ALL):  # noqa: ANN001, ANN202
    return ledger.plan(dataset, run_id, event, 1e-5, 1.0)


def _steps(ledger: Ledger, run_id: str | None = None) -> int:
    return sum(event.steps for event in ledger.events(run_id))


def _open_reservation(ledger: Ledger) -> str:
    return next(
        entry["body"]["reservation"] for entry in ledger.export() if entry["body"]["kind"] == "reserve"
    )


def test_rounds_add_up_to_the_true_epsilon(path: Path, key: Ed25519PrivateKey) -> None:
    for number in range(3):  # each round opens the ledger anew, as a restarted site would
        with Ledger.open(path, key, limit=Budget(4.0, 1e-3)) as ledger:
            plan = ledger.plan(ALL, "run", DpSgdEvent(1.0, 1 / 7, 21), 1e-3, 1.0)
            ledger.reserve(plan, number, 7).commit(7)
            assert ledger.spent(1e-3, run_id="run") <= plan.epsilon
    with Ledger.open(path, key, limit=Budget(4.0, 1e-3)) as ledger:
        assert ledger.spent(1e-3) == pytest.approx(3.139, rel=1e-3)
        assert ledger.find_plan("run").epsilon == pytest.approx(3.139, rel=1e-3)
        assert ledger.verify() == 9


def test_what_is_not_committed_counts_in_full(reopen: Open) -> None:
    with reopen() as ledger:
        plan = _plan(ledger)
        ledger.reserve(plan, 1, 50).commit(20)
        ledger.reserve(plan, 2, 50)
    with reopen() as ledger:
        assert _steps(ledger) == 70
        assert ledger.spent(1e-5) == epsilon([DpSgdEvent(1.5, 0.05, 70)], 1e-5)


def test_a_reservation_is_cut_to_what_the_plan_has_left(reopen: Open) -> None:
    with reopen() as ledger:
        plan = _plan(ledger)
        assert ledger.reserve(plan, 1, 150).steps == 150
        assert ledger.reserve(plan, 2, 150).steps == 50
        with pytest.raises(BudgetExceeded, match="all 200 steps"):
            ledger.reserve(plan, 3, 1)
        assert _steps(ledger) == 200


def test_charges_of_a_round_add_up_whatever_their_order(reopen: Open) -> None:
    with reopen() as ledger:
        plan = _plan(ledger)
        first, second = ledger.reserve(plan, 1, 4), ledger.reserve(plan, 1, 3)
        first.commit(1)
        assert ledger.charged_rounds("run") == ((1, 1, 4),)
        ledger.reserve(plan, 2, 4)
        ledger.reserve(plan, 4, 4)
        ledger.reserve(plan, 5, 4).commit(4)
        second.commit(0)
        assert ledger.charged_rounds("run") == ((1, 1, 1), (2, 2, 4), (4, 5, 4))
        _plan(ledger, "other")
        assert ledger.charged_rounds("other") == ()
        assert (
            State.from_json(json.loads(json.dumps(ledger._state.to_json()))).to_json()
            == ledger._state.to_json()
        )
        with pytest.raises(LedgerError, match="no plan"):
            ledger.charged_rounds("unknown")


def test_the_use_of_a_data_set_is_that_of_its_worst_patient_with_all_their_data_sets(reopen: Open) -> None:
    with reopen() as ledger:
        for name, ids, steps in (("one", (1, 2), 100), ("two", (2, 3), 60), ("apart", (9,), 10)):
            plan = _plan(ledger, name, DpSgdEvent(1.5, 0.05, 200), patients(*ids))
            ledger.reserve(plan, 1, steps)
        found = {plan.run_id: ledger.used(plan.dataset, 1e-5) for plan in ledger.plans()}

    def cost(steps: int) -> float:
        return epsilon([DpSgdEvent(1.5, 0.05, steps)], 1e-5)

    assert found["one"] == found["two"] == (cost(160), cost(400))  # of patient 2
    assert found["apart"] == (cost(10), cost(200))


def test_a_commit_only_lowers_and_only_once(reopen: Open) -> None:
    with reopen() as ledger:
        reservation = ledger.reserve(_plan(ledger), 1, 10)
        for bad in (11, -1, 2.5, True):
            with pytest.raises(LedgerError, match="steps_run"):
                reservation.commit(bad)
        assert _steps(ledger) == 10
        reservation.commit(4)
        with pytest.raises(LedgerError, match="already"):
            reservation.commit(0)
        assert _steps(ledger) == 4


def test_only_the_holder_commits(reopen: Open) -> None:
    with reopen() as ledger:
        reservation = ledger.reserve(_plan(ledger), 1, 10)
        for theft in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(LedgerError, match="cannot be copied"):
                theft(reservation)
        with pytest.raises(LedgerError, match="cannot read"):  # whoever knows the name but not the token
            ledger._commit("run", _open_reservation(ledger), "00" * 16, 0)
    with reopen() as ledger:
        assert _steps(ledger) == 10


def test_a_forged_commit_leaves_the_ledger_usable(reopen: Open) -> None:
    with reopen() as ledger:
        plan = _plan(ledger)
        reservation = ledger.reserve(plan, 1, 10)
        with pytest.raises(LedgerError):
            ledger._commit("run", _open_reservation(ledger), "00" * 16, 0)
        reservation.commit(3)
        assert _steps(ledger) == 3
        ledger.verify()


def test_a_forked_child_can_use_neither_ledger_nor_reservation(reopen: Open) -> None:
    with reopen() as ledger:
        reservation = ledger.reserve(_plan(ledger), 1, 10)
        child = os.fork()
        if child == 0:
            refused = 0
            for attempt in (lambda: reservation.commit(0), lambda: ledger.spent(1e-5)):
                try:
                    attempt()
                except LedgerError:
                    refused += 1
            os._exit(refused)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
        assert _steps(ledger) == 10


def test_the_same_plan_again_is_the_same_plan(reopen: Open) -> None:
    with reopen() as ledger:
        first = _plan(ledger)
        head = ledger.head
        assert _plan(ledger) == first
        assert ledger.find_plan("run") == first
        assert ledger.find_plan("other") is None
        assert ledger.head == head


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"event": DpSgdEvent(1.4, 0.05, 200)}, "mechanism"),
        ({"event": DpSgdEvent(1.5, 0.05, 201)}, "mechanism"),
        ({"delta": 1e-6}, "delta"),
        ({"max_grad_norm": 2.0}, "max_grad_norm"),
        ({"purpose": "tuning"}, "purpose"),
        ({"dataset": patients(1, 2, 100)}, "patients"),  # somebody came
        ({"shared": "ab" * 32}, "way to share the noise"),
    ],
)
def test_a_signed_plan_does_not_change(reopen: Open, change: dict, name: str) -> None:
    arguments = {"dataset": ALL, "run_id": "run", "event": RUN, "delta": 1e-5, "max_grad_norm": 1.0}
    with reopen() as ledger:
        ledger.plan(**arguments)
        with pytest.raises(LedgerError, match=f"another {name}"):
            ledger.plan(**(arguments | change))
        assert len(ledger.plans()) == 1


def test_how_the_noise_is_shared_is_signed_with_the_plan(reopen: Open) -> None:
    with reopen() as ledger:
        alone = _plan(ledger)
        together = ledger.plan(ALL, "sum", RUN, 1e-5, 1.0, shared="ab" * 32)
    assert "shared" not in alone.to_json()  # entries of plans without are what they always were
    with reopen() as ledger:
        assert ledger.find_plan("sum") == together and ledger.find_plan("run") == alone
        with pytest.raises(LedgerError, match="another way to share the noise"):
            ledger.plan(ALL, "sum", RUN, 1e-5, 1.0)


def test_a_plan_of_another_ledger_cannot_be_charged(reopen: Open, tmp_path: Path, limit: Budget) -> None:
    with Ledger.open(tmp_path / "other.db", Ed25519PrivateKey.generate(), limit=limit) as other:
        foreign = other.plan(ALL, "run", DpSgdEvent(5.0, 0.01, 10), 1e-5, 1.0)
    with reopen() as ledger:
        with pytest.raises(LedgerError, match="no plan"):
            ledger.reserve(foreign, 1, 1)
        _plan(ledger)
        with pytest.raises(LedgerError, match="another plan"):
            ledger.reserve(foreign, 1, 1)


def test_noise_is_charged_rounded_down_and_rate_up(reopen: Open) -> None:
    with reopen() as ledger:
        plan = ledger.plan(ALL, "run", DpSgdEvent(1.23459999, 1 / 7, 10), 1e-5, 1.0)
    assert plan.event.noise_multiplier == 1.2345
    assert 1 / 7 <= plan.event.sampling_rate <= 1 / 7 + 1e-12


@given(sigma=st.floats(0.01, 100), rate=st.floats(1e-6, 1.0))
def test_rounding_is_never_in_favour_and_settles(sigma: float, rate: float) -> None:
    charged = charged_event(DpSgdEvent(sigma, rate, 1))
    assert sigma - 1.1e-4 < charged.noise_multiplier <= sigma
    assert rate <= charged.sampling_rate <= rate + 1.1e-12
    assert charged_event(charged) == charged


def test_a_run_calibrated_to_the_limit_is_admitted_and_nothing_after_it(
    path: Path, key: Ed25519PrivateKey
) -> None:
    sigma = calibrate_noise_multiplier(3.0, 1e-5, 1 / 7, 70)
    with Ledger.open(path, key, limit=Budget(3.0, 1e-5)) as ledger:
        plan = _plan(ledger, event=DpSgdEvent(sigma, 1 / 7, 70))
        assert plan.rule == "planned"
        assert 2.99 < plan.epsilon <= 3.0
        ledger.reserve(plan, 1, 1).commit(1)
        with pytest.raises(BudgetExceeded, match="RDP filter"):
            _plan(ledger, "next", DpSgdEvent(100.0, 0.001, 1))
        assert ledger.reserve(plan, 2, 100).steps == 69


def test_plans_signed_before_any_access_share_the_limit_by_pld(reopen: Open) -> None:
    with reopen() as ledger:
        rules = [_plan(ledger, f"run-{i}").rule for i in range(9)]
        assert epsilon([DpSgdEvent(1.5, 0.05, 200 * 9)], 1e-5) <= 8.0
        assert rules.count("planned") > 0
        with pytest.raises(BudgetExceeded, match="all planned runs together"):
            _plan(ledger, "run-9")


def test_after_access_the_filter_decides(reopen: Open) -> None:
    orders = (2, 3, 5, 9, 18, 40)
    admitted = 0
    with reopen() as ledger:
        with pytest.raises(BudgetExceeded):
            for i in range(20):
                plan = _plan(ledger, f"run-{i}")
                assert plan.rule == "adaptive"
                ledger.reserve(plan, 1, 1).commit(0)
                admitted += 1
        assert adaptive_epsilon([RUN] * admitted, 1e-5, orders) <= 8.0
        assert adaptive_epsilon([RUN] * (admitted + 1), 1e-5, orders) > 8.0
        assert ledger.filter_epsilon() == adaptive_epsilon([RUN] * admitted, 1e-5, orders)
        assert ledger.spent(1e-5) == 0  # nothing ran, and still no more is admitted: plans count in full


def test_a_delta_above_the_limit_is_refused(reopen: Open) -> None:
    with reopen() as ledger, pytest.raises(BudgetExceeded, match="delta"):
        ledger.plan(ALL, "run", RUN, 1e-4, 1.0)


def test_checking_signs_nothing(reopen: Open) -> None:
    with reopen() as ledger:
        ledger.check(ALL, RUN, 1e-5)
        with pytest.raises(BudgetExceeded):
            ledger.check(ALL, DpSgdEvent(0.5, 0.5, 200), 1e-5)
        assert ledger.plans() == ()
        assert ledger.head.seq == 1


def test_shared_patients_carry_their_spend(reopen: Open) -> None:
    spend_all = DpSgdEvent(1.1, 0.1, 150)
    with reopen() as ledger:
        plan = _plan(ledger, "first", spend_all, patients(1, 2, 3))
        ledger.reserve(plan, 1, 10)
        for again in (patients(1, 2, 3), patients(3, 4, 5), patients(*range(50))):
            with pytest.raises(BudgetExceeded):
                _plan(ledger, "again", spend_all, again)
        assert _plan(ledger, "apart", spend_all, patients(4, 5)).dataset != plan.dataset


def test_a_patient_pays_for_their_own_data_sets_only(reopen: Open) -> None:
    half = DpSgdEvent(1.5, 0.05, 500)  # twice fits the limit, three times does not
    with reopen() as ledger:
        for name, ids in (("a", (1,)), ("b", (2,)), ("both", (1, 2))):
            ledger.reserve(_plan(ledger, name, half, patients(*ids)), 1, 1)
        assert ledger.spent(1e-5) == epsilon([DpSgdEvent(1.5, 0.05, 2)], 1e-5)
        with pytest.raises(BudgetExceeded):
            _plan(ledger, "third", half, patients(2, 3))
        _plan(ledger, "else", half, patients(3))


def test_a_plan_counts_against_data_sets_that_came_later(reopen: Open) -> None:
    half = DpSgdEvent(1.5, 0.05, 500)
    with reopen() as ledger:
        ledger.reserve(_plan(ledger, "early", half, patients(1, 2)), 1, 1)
        ledger.reserve(_plan(ledger, "late", half, patients(2, 3)), 1, 1)
        with pytest.raises(BudgetExceeded):  # patient 2 has been in both
            _plan(ledger, "early again", half, patients(1, 2))


def test_an_untouched_plan_can_be_withdrawn(reopen: Open) -> None:
    spend_all = DpSgdEvent(1.1, 0.1, 150)
    with reopen() as ledger:
        plan = _plan(ledger, "proposed", spend_all)
        with pytest.raises(BudgetExceeded):
            _plan(ledger, "real", spend_all)
        ledger.withdraw("proposed")
        ledger.withdraw("proposed")
        with pytest.raises(BudgetExceeded, match="withdrawn"):
            ledger.reserve(plan, 1, 1)
        ledger.reserve(_plan(ledger, "real", spend_all), 1, 1)
        with pytest.raises(LedgerError, match="for ever"):
            ledger.withdraw("real")
        with pytest.raises(LedgerError, match="no plan"):
            ledger.withdraw("unknown")


def test_a_plan_cannot_be_withdrawn_after_the_planned_rule_was_relied_on(reopen: Open) -> None:
    with reopen() as ledger:
        plans = [_plan(ledger, f"run-{i}") for i in range(9)]
        ledger.reserve(plans[0], 1, 1)
        with pytest.raises(LedgerError, match="planned together"):
            ledger.withdraw("run-8")
        assert len(ledger.plans()) == 9


def test_the_limit_is_lowered_but_not_raised(path: Path, key: Ed25519PrivateKey) -> None:
    with Ledger.open(path, key, limit=Budget(8.0, 1e-5)) as ledger:
        _plan(ledger)
    with Ledger.open(path, key, limit=Budget(3.0, 1e-5)) as ledger:
        assert ledger.limit == Budget(3.0, 1e-5)
        with pytest.raises(BudgetExceeded, match="the limit is 3"):
            _plan(ledger, "second")
    for wider in (Budget(8.0, 1e-5), Budget(3.0, 1e-4)):
        with pytest.raises(LedgerError, match="only be lowered"):
            Ledger.open(path, key, limit=wider)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ledger: ledger.plan(ALL, "", RUN, 1e-5, 1.0), "run_id"),
        (lambda ledger: ledger.plan(ALL, "r", RUN, 1e-5, 0.0), "clipping norm"),
        (lambda ledger: ledger.plan(ALL, "r", DpSgdEvent(1.0, 0.1, 0), 1e-5, 1.0), "one step"),
        (lambda ledger: ledger.reserve(_plan(ledger), 1, 0), "steps"),
        (lambda ledger: ledger.reserve(_plan(ledger), 1, 2.0), "steps"),
        (lambda ledger: ledger.events("unknown"), "no plan"),
        (lambda ledger: ledger.spent(1e-5, run_id="unknown"), "no plan"),
    ],
)
def test_senseless_requests_are_refused(reopen: Open, call: Callable[[Ledger], object], message: str) -> None:
    with reopen() as ledger, pytest.raises(LedgerError, match=message):
        call(ledger)


@pytest.mark.parametrize(("eps", "delta"), [(0.0, 1e-5), (float("inf"), 1e-5), (1.0, 0.0), (1.0, 1.0)])
def test_a_senseless_budget_is_refused(eps: float, delta: float) -> None:
    with pytest.raises(LedgerError, match="budget"):
        Budget(eps, delta)


def test_identity_is_the_patients_and_the_key_alone() -> None:
    assert patients(1, 2, 3) == patients(3, 2, 1, 1)
    assert patients(1, 2) != patients(1, 3)
    assert dataset_identity(["patient-1"], SECRET) != dataset_identity(["patient-1"], SECRET[::-1])
    assert "patient" not in repr(patients(1))
    for bad in ([""], ["  "], [7]):
        with pytest.raises(LedgerError):
            dataset_identity(bad, SECRET)
    with pytest.raises(LedgerError, match="16 bytes"):
        dataset_identity(["a"], b"short")


def test_the_export_is_checked_by_the_public_key_alone(reopen: Open, key: Ed25519PrivateKey) -> None:
    with reopen() as ledger:
        ledger.reserve(_plan(ledger), 1, 10).commit(4)
        entries = ledger.export()
    state = verify_export(entries, key.public_key())
    assert state.accounts["run"].charged == 4
    assert str(len(ALL.digests)) not in {str(value) for entry in entries for value in entry["body"].values()}
    edited = copy.deepcopy(entries)
    edited[-1]["body"]["steps"] = 0
    mangled = copy.deepcopy(entries)
    mangled[2]["body"] = "no entry"
    for forged in (edited, mangled, [], {}, entries[1:], entries[:2] + entries[3:], entries[::-1]):
        with pytest.raises(LedgerError):
            verify_export(forged, key.public_key())
    with pytest.raises(LedgerError):
        verify_export(entries, Ed25519PrivateKey.generate().public_key())


REQUESTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("plan"),
            st.integers(0, 6),
            st.floats(0.6, 4.0),
            st.floats(0.01, 0.3),
            st.integers(1, 400),
            st.sets(st.integers(0, 3), min_size=1),
        ),
        st.tuples(st.just("reserve"), st.integers(0, 6), st.integers(1, 300)),
        st.tuples(st.just("withdraw"), st.integers(0, 6)),
    ),
    max_size=14,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=REQUESTS)
def test_no_sequence_of_requests_spends_a_patient_beyond_the_limit(
    tmp_path_factory: pytest.TempPathFactory, requests: list[tuple]
) -> None:
    path, key, limit = (
        tmp_path_factory.mktemp("ledger") / "l.db",
        Ed25519PrivateKey.generate(),
        Budget(4.0, 1e-5),
    )
    released: dict[int, list[DpSgdEvent]] = {patient: [] for patient in range(4)}
    members: dict[str, set[int]] = {}
    with Ledger.open(path, key, limit=limit) as ledger:
        for kind, run, *values in requests:
            name = f"run-{run}"
            try:
                if kind == "plan":
                    sigma, rate, steps, ids = values
                    _plan(ledger, name, DpSgdEvent(sigma, rate, steps), patients(*ids))
                    members.setdefault(name, ids)
                elif kind == "withdraw":
                    ledger.withdraw(name)
                elif (plan := ledger.find_plan(name)) is not None:
                    ran = ledger.reserve(plan, 1, values[0]).steps
                    for patient in members[name]:
                        event = plan.event
                        released[patient].append(DpSgdEvent(event.noise_multiplier, event.sampling_rate, ran))
            except (BudgetExceeded, LedgerError):
                continue
        spent = [epsilon(events, limit.delta) for events in released.values()]
        assert max(spent) <= limit.epsilon
        assert ledger.spent(limit.delta) == pytest.approx(max(spent), rel=1e-3, abs=1e-6)
        ledger.verify()


def test_a_purpose_has_its_own_part_of_the_limit(reopen: Open) -> None:
    def part(purpose: str) -> list[Sublimit]:
        return [Sublimit(f"the limit for {purpose}", Budget(3.0, 1e-5), purpose=purpose)]

    with reopen() as ledger:

        def tune(name: str, purpose: str = "tuning") -> None:
            plan = ledger.plan(ALL, name, RUN, 1e-5, 1.0, purpose=purpose, sublimits=part(purpose))
            ledger.reserve(plan, 1, 1)

        tune("first")
        with pytest.raises(BudgetExceeded, match="the limit for tuning is 3"):
            tune("second")
        with pytest.raises(BudgetExceeded, match="the limit for tuning is 3"):
            ledger.check(ALL, RUN, 1e-5, part("tuning"))
        tune("third", purpose="training")
        _plan(ledger, "fourth")


def test_a_recorded_policy_sets_the_limit_and_only_two_officers_raise_it(
    path: Path, key: Ed25519PrivateKey
) -> None:
    with Ledger.open(path, key, limit=Budget(8.0, 1e-5)) as ledger:
        assert ledger.policy is None
        ledger.record_policy("tighter", Budget(4.0, 1e-5), officer="aa", replaces=None)
        assert (ledger.policy, ledger.limit) == ("tighter", Budget(4.0, 1e-5))
        with pytest.raises(LedgerError, match="above the recorded"):
            ledger.record_policy("wider", Budget(5.0, 1e-5), officer="aa", replaces="tighter")
        with pytest.raises(LedgerError, match="Another process"):
            ledger.record_policy("lost", Budget(1.0, 1e-5), officer="aa", replaces=None)
        ledger.record_policy("wider", Budget(5.0, 1e-5), officer="aa", replaces="tighter", countersigned=True)
    with Ledger.open(path, key, limit=Budget(5.0, 1e-5)) as ledger:
        assert ledger.policy == "wider"
        ledger.verify()


def test_a_planned_run_goes_on_without_patients_who_left_and_not_with_one_who_came(reopen: Open) -> None:
    with reopen() as ledger:
        plan = _plan(ledger)
        ledger.reserve(plan, 1, 5).commit(5)
        left = patients(*range(40))
        assert _plan(ledger, dataset=left) == plan and ledger.covers(plan, left)
        assert ledger.planned_patients(plan) == 100
        came = patients(*range(40), 100)
        assert not ledger.covers(plan, came)
        with pytest.raises(LedgerError, match="patients"):
            _plan(ledger, dataset=came)
        other = dataset_identity([f"patient-{i}" for i in range(40)], SECRET[::-1])  # under another secret
        assert not ledger.covers(plan, other)


def test_which_runs_patients_took_part_in(reopen: Open) -> None:
    with reopen() as ledger:
        first = _plan(ledger, "first", dataset=patients(1, 2, 3))
        ledger.reserve(first, 1, 5)
        second = _plan(ledger, "second", dataset=patients(3, 4))
        _plan(ledger, "never charged", dataset=patients(3))
        ledger.reserve(second, 1, 5)
        assert ledger.took_part(patients(2, 3, 9).digests) == [(first, 2), (second, 1)]
        assert ledger.took_part(patients(9).digests) == [(first, 0), (second, 0)]


def test_a_plan_on_nobody_is_judged_as_one_on_a_new_patient(reopen: Open) -> None:
    """Which of the two a data set is must not show by an answer."""
    nobody, somebody = patients(), patients(1)
    with reopen() as ledger:
        for dataset, name in ((nobody, "nobody"), (somebody, "somebody")):
            with pytest.raises(BudgetExceeded):
                ledger.plan(dataset, name, DpSgdEvent(0.3, 0.5, 1000), 1e-5, 1.0)
            plan = ledger.plan(dataset, name, DpSgdEvent(50.0, 0.01, 10), 1e-5, 1.0)
            ledger.reserve(plan, 1, 5).commit(5)
            assert ledger.covers(plan, nobody)
        assert ledger.planned_patients(ledger.plans()[0]) == 0
    with reopen() as ledger:
        assert {plan.run_id for plan in ledger.plans()} == {"nobody", "somebody"}
