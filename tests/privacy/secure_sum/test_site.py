"""What a site refuses, repeats and charges, whoever asks and whatever was restored."""

from __future__ import annotations

import hashlib
import shutil
import stat
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from privacy.errors import BudgetExceeded, SecureSumRefusal, VoidStep
from privacy.secure_sum import Request
from tests.privacy.secure_sum.federation import (
    MODEL,
    Federation,
    FileAccount,
    make_terms,
    name,
    names,
    zeros,
)

OTHER_MODEL = hashlib.sha256(b"another model").digest()
ONE = name(0)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path / "run", make_terms()).meet()


def never() -> np.ndarray:
    pytest.fail("drawn")


def ask(federation: Federation, request: Request, of: str = ONE) -> bytes:
    return federation.sites[of].answer(request, zeros(federation.terms))


@pytest.mark.parametrize(
    "cohort",
    [names(2), names(4)[1:], (*names(3), name(9)), (name(0),)],
    ids=["two", "without me", "unknown", "me"],
)
def test_a_cohort_that_would_not_hide_is_refused_uncharged(
    federation: Federation, cohort: tuple[str, ...]
) -> None:
    with pytest.raises(SecureSumRefusal, match="cohort"):
        federation.sites[ONE].answer(federation.request(cohort=cohort), never)
    assert federation.account(ONE).charges() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"cohort": (name(0), name(1), name(1), name(2))},
        {"cohort": names(4)[::-1]},
        {"cohort": list(names(4))},
        {"cohort": (0, 1, 2)},
        {"step": 0},
        {"step": True},
        {"step": 1.0},
        {"attempt": 0},
        {"model": b"short"},
        {"model": "x" * 32},
    ],
)
def test_a_malformed_request_cannot_even_be_made(changes: dict[str, object]) -> None:
    with pytest.raises(SecureSumRefusal):
        Request(**({"step": 1, "attempt": 1, "cohort": names(4), "model": MODEL} | changes))


def test_a_step_beyond_the_plan_is_refused(federation: Federation) -> None:
    with pytest.raises(SecureSumRefusal, match="plan"):
        federation.sites[ONE].answer(federation.request(step=5), never)


def test_the_same_request_gets_the_same_bytes_for_one_charge_and_one_draw(federation: Federation) -> None:
    first = ask(federation, federation.request())
    assert federation.sites[ONE].answer(federation.request(), never) == first
    assert federation.open(ONE).answer(federation.request(), never) == first  # another process
    assert federation.account(ONE).charges() == [1]


@pytest.mark.parametrize(
    "changes",
    [{"cohort": names(3)}, {"model": OTHER_MODEL}, {"cohort": names(3), "model": OTHER_MODEL}],
    ids=["cohort", "model", "both"],
)
def test_the_same_place_with_another_view_is_refused(
    federation: Federation, changes: dict[str, object]
) -> None:
    ask(federation, federation.request())
    with pytest.raises(SecureSumRefusal, match="does not come after"):
        federation.sites[ONE].answer(replace(federation.request(), **changes), never)
    assert federation.account(ONE).charges() == [1]


def test_older_places_are_refused_and_a_new_attempt_is_drawn_masked_and_charged_afresh(
    federation: Federation,
) -> None:
    first = federation.words(ask(federation, federation.request(step=2)))
    again = federation.words(ask(federation, federation.request(step=2, attempt=3)))
    ask(federation, federation.request(step=3, attempt=4))
    assert federation.account(ONE).charges() == [2, 3, 4]
    assert np.unique(again - first).size > 0.99 * len(first)
    spread = (again - first).view(np.int64).astype(float).std() / (2.0**64 / 12**0.5)
    assert abs(spread - 1) < 0.1  # the two differ by whole pads, not by noise
    for step, attempt in ((2, 1), (2, 2), (2, 3), (1, 4), (3, 3), (4, 4)):
        with pytest.raises(SecureSumRefusal, match="does not come after"):
            federation.sites[ONE].answer(federation.request(step=step, attempt=attempt), never)


def test_no_more_is_answered_than_the_plan_holds(federation: Federation) -> None:
    for step, attempt in ((1, 1), (1, 2), (2, 3), (2, 4), (2, 5), (3, 6)):  # 4 steps and 2 repeats
        ask(federation, federation.request(step=step, attempt=attempt))
    with pytest.raises(SecureSumRefusal, match="room for 6"):
        federation.sites[ONE].answer(federation.request(step=4, attempt=7), never)
    assert len(federation.account(ONE).charges()) == 6


def test_what_the_ledger_does_not_allow_is_not_drawn(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "run", make_terms()).meet()
    federation.sites[ONE]._account = FileAccount(tmp_path / "poor", most=1)
    ask(federation, federation.request())
    with pytest.raises(BudgetExceeded):
        federation.sites[ONE].answer(federation.request(step=2), never)


def test_a_draw_that_fails_is_charged_and_void(federation: Federation) -> None:
    def fails() -> np.ndarray:
        raise MemoryError

    with pytest.raises(MemoryError):
        federation.sites[ONE].answer(federation.request(), fails)
    with pytest.raises(VoidStep):
        federation.sites[ONE].answer(federation.request(), never)
    ask(federation, federation.request(attempt=2))
    assert federation.account(ONE).charges() == [1, 2]


def test_charge_and_note_come_before_the_draw(federation: Federation) -> None:
    seen = {}

    def draw() -> np.ndarray:
        seen["charges"] = federation.account(ONE).charges()
        seen["note"] = (federation.folder / ONE / "note.json").read_text()
        return np.zeros(federation.terms.dimension)

    federation.sites[ONE].answer(federation.request(step=3), draw)
    assert seen["charges"] == [3]
    assert '"attempt": 3' in seen["note"]


def copied(federation: Federation) -> Path:
    backup = federation.folder / "backup"
    shutil.copytree(federation.folder / ONE, backup)
    return backup


def restore(federation: Federation, backup: Path | None) -> None:
    shutil.rmtree(federation.folder / ONE)
    if backup is not None:
        shutil.copytree(backup, federation.folder / ONE)


def test_a_restored_state_never_answers_again_what_was_answered_since(federation: Federation) -> None:
    ask(federation, federation.request(step=1))
    backup = copied(federation)
    for step in (2, 3):
        ask(federation, federation.request(step=step))
    restore(federation, backup)
    site = federation.open(ONE)
    for step, attempt in ((2, 2), (3, 3), (2, 3)):  # each would be a second vector under a mask that was used
        with pytest.raises(SecureSumRefusal):
            site.answer(federation.request(step=step, attempt=attempt), never)
    site.answer(federation.request(step=3, attempt=4), zeros(federation.terms))
    assert federation.account(ONE).charges()[-1] == 4


def test_a_state_from_before_the_first_step_does_not_answer_it_again(federation: Federation) -> None:
    backup = copied(federation)
    ask(federation, federation.request())
    restore(federation, backup)
    with pytest.raises(VoidStep):
        federation.open(ONE).answer(federation.request(), never)
    with pytest.raises(SecureSumRefusal):
        federation.open(ONE).answer(federation.request(model=OTHER_MODEL), never)


def test_a_lost_state_makes_no_new_key_for_a_charged_run(federation: Federation) -> None:
    ask(federation, federation.request())
    restore(federation, None)
    site = federation.open(ONE)
    with pytest.raises(SecureSumRefusal, match="secret key"):
        site.introduce()
    with pytest.raises(SecureSumRefusal, match="secret key"):
        site.answer(federation.request(step=2), never)


def test_a_lost_secret_is_not_replaced(federation: Federation) -> None:
    (federation.folder / ONE / "secret").unlink()
    with pytest.raises(SecureSumRefusal, match="secret key"):
        federation.open(ONE).introduce()


def test_a_changed_note_stops_the_run(federation: Federation) -> None:
    ask(federation, federation.request())
    (federation.folder / ONE / "note.json").write_text("{}")
    with pytest.raises(SecureSumRefusal, match="note"):
        federation.open(ONE).answer(federation.request(step=2), never)


def test_an_ended_run_keeps_no_secret_and_answers_no_more(federation: Federation) -> None:
    ask(federation, federation.request())
    secret = (federation.folder / ONE / "secret").read_bytes()
    federation.sites[ONE].close()
    for site in (federation.sites[ONE], federation.open(ONE)):
        for request in (federation.request(), federation.request(step=2)):
            with pytest.raises(SecureSumRefusal, match="ended"):
                site.answer(request, never)
        with pytest.raises(SecureSumRefusal, match="ended"):
            site.introduce()
    kept = b"".join(path.read_bytes() for path in (federation.folder / ONE).iterdir())
    assert secret not in kept


def test_the_key_is_kept_for_the_run_fresh_for_each_and_readable_by_the_site_alone(
    federation: Federation, tmp_path: Path
) -> None:
    assert federation.open(ONE).introduce() == federation.introductions[ONE]
    other = Federation(tmp_path / "other", federation.terms)
    assert other.introductions[ONE].key != federation.introductions[ONE].key
    for path in (federation.folder / ONE).iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((federation.folder / ONE).stat().st_mode) == 0o700


def test_two_processes_at_once_give_one_vector(federation: Federation) -> None:
    drawn, answers = [], []
    started = threading.Event()

    def draw() -> np.ndarray:
        drawn.append(1)
        started.wait(1.0)  # the other one waits at the lock meanwhile
        return np.ones(federation.terms.dimension)

    def work() -> None:
        answers.append(federation.open(ONE).answer(federation.request(), draw))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(drawn) == 1
    assert len(answers) == 3  # the others waited for it
    assert len(set(answers)) == 1
    assert federation.account(ONE).charges() == [1]


def test_an_answer_is_as_long_whatever_was_drawn(federation: Federation) -> None:
    nothing = ask(federation, federation.request())
    wild = federation.sites[ONE].answer(
        federation.request(step=2), lambda: np.array([np.nan, np.inf, -np.inf, 1e300] * 500)
    )
    assert len(nothing) == len(wild) == 8 * 2000


def test_a_site_that_met_nobody_answers_nothing(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "run", make_terms())
    with pytest.raises(SecureSumRefusal, match="met"):
        federation.sites[ONE].answer(federation.request(), never)
