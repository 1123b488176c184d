"""Time as a ledger knows it: what a wrong clock may not open or shut, and what a machine that was off may."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from privacy.accounting import DpSgdEvent
from privacy.errors import BudgetExceeded
from privacy.ledger import Budget, Ledger, Sublimit
from privacy.ledger.clock import SETTLING, Clock, Mark, Reading, passed, read, renewed
from tests.privacy.ledger.cohort import patients

HOUR, DAY, YEAR = 3600.0, 86_400.0, 365 * 86_400.0
LIMIT = Budget(100.0, 1e-5)
RUN = DpSgdEvent(1.0, 0.05, 10)
START = 1.8e9


@dataclass
class Machine:
    """Both clocks of a machine, which tests turn; `true` is the time that no clock shows."""

    wall: float = START
    true: float = START
    booted: float = START - 1000
    boot: str = "first"

    def read(self) -> Reading:
        return Reading(self.wall, self.true - self.booted, self.boot)

    def runs(self, seconds: float) -> None:
        self.wall, self.true = self.wall + seconds, self.true + seconds

    def is_off(self, seconds: float) -> None:
        self.runs(seconds)
        self.booted, self.boot = self.true, f"{self.boot}+"
        self.runs(30)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    for room in ("ledger", "reading"):
        monkeypatch.setattr(f"privacy.ledger.{room}.read", made.read)
    return made


@pytest.fixture
def site(tmp_path: Path, machine: Machine) -> Callable[[], Ledger]:
    key = Ed25519PrivateKey.generate()
    return lambda: Ledger.open(tmp_path / "state" / "ledger.db", key, limit=LIMIT)


def run(ledger: Ledger, name: str) -> None:
    """A whole run, of which the policy's period has room for one."""
    ledger.note_clock()  # as a site does before it judges a request
    period = Sublimit("period", Budget(3.0, 1e-5), since=ledger.now() - YEAR)
    plan = ledger.plan(patients(1, 2), name, RUN, 1e-5, 1.0, sublimits=(period,))
    ledger.reserve(plan, 1, RUN.steps, (period,)).commit(RUN.steps)


def refused(ledger: Ledger, name: str) -> bool:
    try:
        run(ledger, name)
    except BudgetExceeded as error:
        assert "period" in str(error)
        return True
    return False


def test_a_jump_ahead_for_a_moment_refills_nothing_and_leaves_no_trace(
    site: Callable[[], Ledger], machine: Machine
) -> None:
    with site() as ledger:
        run(ledger, "a")
        machine.runs(DAY)
        machine.wall += YEAR
        assert (
            ledger.clock().latest > machine.true + 0.9 * YEAR
        )  # a policy may be over while the clock is wrong
        assert refused(ledger, "b")
        machine.wall -= YEAR
        assert ledger.clock().latest == pytest.approx(machine.true)  # and no longer
        assert refused(ledger, "c")
        machine.runs(YEAR + DAY)
        run(ledger, "d")
        ledger.verify()


def test_a_jump_ahead_that_stays_refills_no_sooner_than_the_period(
    site: Callable[[], Ledger], machine: Machine
) -> None:
    with site() as ledger:
        run(ledger, "a")
        machine.wall += YEAR
        for _ in range(3):
            machine.runs(100 * DAY)
            assert refused(ledger, "b")
    machine.is_off(HOUR)  # a restart does not make it true either
    with site() as ledger:
        assert refused(ledger, "c")
        machine.runs(2 * HOUR)
        assert refused(ledger, "d")
        machine.runs(66 * DAY)
        run(ledger, "e")
        ledger.verify()


def test_a_year_off_counts_once_the_clock_has_held_for_an_hour(
    site: Callable[[], Ledger], machine: Machine
) -> None:
    with site() as ledger:
        run(ledger, "a")
    machine.is_off(YEAR + DAY)
    with site() as ledger:
        assert refused(ledger, "b") and ledger.clock().settles == pytest.approx(SETTLING)
        machine.runs(SETTLING - 60)
        assert refused(ledger, "b")
    with site() as ledger:  # opened anew: nothing waits in a process
        machine.runs(120)
        run(ledger, "b")
        assert ledger.now() == pytest.approx(machine.true, abs=60) and ledger.clock().settles is None
        machine.runs(YEAR - DAY)
        assert refused(ledger, "c")  # what was charged then is dated as it was
        ledger.verify()


def test_a_clock_that_is_wrong_at_boot_and_mended_within_the_hour_counts_as_mended(
    site: Callable[[], Ledger], machine: Machine
) -> None:
    with site() as ledger:
        run(ledger, "a")
    machine.is_off(DAY)
    machine.wall += YEAR
    with site() as ledger:
        assert refused(ledger, "b")
        machine.runs(HOUR / 2)
        machine.wall -= YEAR
        for _ in range(4):
            machine.runs(HOUR)
            assert refused(ledger, "b")
        assert ledger.now() == pytest.approx(machine.true, abs=60)


def test_what_is_charged_before_time_off_counts_is_not_dated_back(
    site: Callable[[], Ledger], machine: Machine
) -> None:
    with site() as ledger:
        ledger.note_clock()
    machine.is_off(YEAR - DAY)
    with site() as ledger:
        run(ledger, "a")  # dated a year ago, as far as is known
        machine.runs(2 * HOUR)
        ledger.note_clock()
        machine.runs(2 * DAY)
        assert refused(ledger, "b")
        ledger.verify()


def test_a_clock_turned_back_gains_nothing(site: Callable[[], Ledger], machine: Machine) -> None:
    with site() as ledger:
        run(ledger, "a")
        machine.wall -= 2 * YEAR
        machine.runs(DAY)
        assert ledger.clock().latest == pytest.approx(machine.true)
        assert refused(ledger, "b")
        dates = [entry["body"]["time"] for entry in ledger.export()]
        assert dates == sorted(dates)


def test_a_note_that_did_not_become_durable_is_taken_again(
    site: Callable[[], Ledger], machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site() as ledger:
        run(ledger, "a")
    machine.is_off(YEAR + DAY)
    with site() as ledger:
        ledger.note_clock()
        machine.runs(2 * HOUR)
        with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
            killed.setattr("privacy.ledger.ledger.renewed", _interrupted)
            ledger.note_clock()
        entries = ledger.head.seq
    with site() as ledger:
        assert ledger.head.seq == entries
        run(ledger, "b")


def _interrupted(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_a_ledger_of_a_version_that_noted_no_clock_goes_on(
    site: Callable[[], Ledger], machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        for room in ("ledger", "reading"):
            before.setattr(f"privacy.ledger.{room}.read", lambda: replace(machine.read(), boot=""))
        with site() as ledger:
            run(ledger, "a")
            assert not any("clock" in entry["body"] for entry in ledger.export())
    machine.runs(YEAR - DAY)
    with site() as ledger:
        assert refused(ledger, "b")
        machine.runs(2 * DAY)
        run(ledger, "b")
        machine.runs(YEAR - 3 * DAY)
        assert refused(ledger, "c")
        ledger.verify()


def test_without_a_boot_clock_the_wall_clock_is_left() -> None:
    assert renewed(None, 0.0, Reading(START, 0.0, "")) is None
    assert passed(None, START, Reading(START + 5, 0.0, "")) == START + 5
    assert Clock.of(None, START, Reading(START - 5, 0.0, "")).latest == START


def test_this_machine_has_both_clocks() -> None:
    first, second = read(), read()
    assert first.boot == second.boot and second.up >= first.up


HAPPENINGS = st.lists(
    st.tuples(st.sampled_from(["runs", "is_off", "step"]), st.floats(-2 * YEAR, 2 * YEAR), st.booleans()),
    max_size=12,
)


@given(HAPPENINGS)
def test_no_more_time_passes_than_did_while_no_clock_is_wrong_over_a_boot(
    happenings: list[tuple[str, float, bool]],
) -> None:
    """Whatever steps the clock makes while the machine runs; over a boot it goes on from where it stood."""
    machine = Machine()
    mark: Mark | None = None
    newest = 0.0
    for what, seconds, noted in [("runs", 0.0, True), *happenings]:
        if what == "step":
            mark, newest = _note(mark, newest, machine)  # the last reading before it
            machine.wall += seconds
            mark, newest = _note(mark, newest, machine)
        else:
            getattr(machine, what)(abs(seconds))
        if noted:
            mark, newest = _note(mark, newest, machine)
        assert newest <= passed(mark, newest, machine.read()) <= machine.true + 1.0


def _note(mark: Mark | None, newest: float, machine: Machine) -> tuple[Mark | None, float]:
    now = machine.read()
    new = renewed(mark, newest, now)
    return (new, new.time) if new is not None else (mark, passed(mark, newest, now))
