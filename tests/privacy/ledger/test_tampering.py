"""Whatever is done to the files, the ledger is either whole or refuses."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.accounting import DpSgdEvent
from privacy.errors import BudgetExceeded, LedgerError
from privacy.ledger import Budget, Head, Ledger, Receipt
from privacy.ledger.chain import Chain, _snapshot_message
from privacy.ledger.links import ROOT, canonical, entry_hash, next_link, receipt_for
from privacy.ledger.state import State
from tests.privacy.ledger.cohort import patients

Open = Callable[[], Ledger]
RUN = DpSgdEvent(5.0, 0.05, 100_000)
LIMIT = Budget(50.0, 1e-5)


@pytest.fixture
def limit() -> Budget:
    return LIMIT


@pytest.fixture
def written(reopen: Open, path: Path) -> Path:
    """A ledger of 23 entries: opening, data set, plan, ten reservations and their commits."""
    with reopen() as ledger:
        plan = ledger.plan(patients(1, 2, 3), "run", RUN, 1e-5, 1.0)
        for number in range(10):
            ledger.reserve(plan, number, 10).commit(9)
        assert ledger.verify() == 23
    return path


def _edit(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DROP TRIGGER IF EXISTS no_update")
        db.execute("DROP TRIGGER IF EXISTS no_delete")
        for statement in statements:
            assert db.execute(statement).rowcount >= 1


def _anchor(path: Path) -> Path:
    return path.with_name(path.name + ".anchor")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entry SET body = CAST(replace(body, '\"steps\":9', '\"steps\":1') AS BLOB) WHERE seq = 13",
        "UPDATE entry SET body = CAST(replace(body, '\"steps\":9', '\"steps\":1') AS BLOB) WHERE seq = 23",
        "UPDATE entry SET signature = zeroblob(64) WHERE seq = 7",
        "UPDATE entry SET signature = (SELECT signature FROM entry WHERE seq = 21) WHERE seq = 23",
        "UPDATE entry SET body = (SELECT body FROM entry WHERE seq = 5) WHERE seq = 7",
        "UPDATE entry SET body = CAST('no json' AS BLOB) WHERE seq = 23",
        "UPDATE entry SET body = 'text' WHERE seq = 5",
        "UPDATE entry SET signature = 1 WHERE seq = 5",
        "DELETE FROM entry WHERE seq = 1",
        "DELETE FROM entry WHERE seq = 12",
        "DELETE FROM entry WHERE seq = 23",
        "DELETE FROM entry WHERE seq > 3",
        "DELETE FROM entry",
        "INSERT INTO entry SELECT 24, body, signature FROM entry WHERE seq = 23",
        "INSERT INTO entry SELECT 0, body, signature FROM entry WHERE seq = 1",
    ],
)
def test_edited_deleted_and_inserted_rows_are_found(written: Path, reopen: Open, statement: str) -> None:
    _edit(written, statement)
    if "SELECT 0" in statement:  # before the first entry: read by no one
        with reopen() as ledger, pytest.raises(LedgerError):
            ledger.verify()
        return
    with pytest.raises(LedgerError):
        reopen()


def test_rows_cannot_be_changed_by_accident(written: Path) -> None:
    with closing(sqlite3.connect(written)) as db:
        for statement in ("UPDATE entry SET seq = 99 WHERE seq = 3", "DELETE FROM entry"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                db.execute(statement)


def test_a_restored_backup_is_refused(written: Path, reopen: Open, tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    shutil.copy(written, backup)
    with reopen() as ledger:
        ledger.reserve(ledger.find_plan("run"), 99, 10)
    shutil.copy(backup, written)
    with pytest.raises(LedgerError, match="old copy"):
        reopen()


def test_a_backup_restored_with_its_anchor_fails_a_receipt_kept_elsewhere(
    written: Path, reopen: Open, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    shutil.copytree(written.parent, saved)
    with reopen() as ledger:
        ledger.reserve(ledger.find_plan("run"), 99, 10)
        receipt = ledger.head
        ledger.verify([receipt])
    shutil.rmtree(written.parent)
    shutil.copytree(saved, written.parent)
    with reopen() as ledger:
        ledger.verify()
        with pytest.raises(LedgerError, match="entry 24"):
            ledger.verify([receipt])
        with pytest.raises(LedgerError, match="entry 3"):
            ledger.verify([Head(3, bytes(32))])


def test_a_lost_wal_file_is_a_rollback(written: Path, reopen: Open, tmp_path: Path) -> None:
    ledger = reopen()
    ledger.reserve(ledger.find_plan("run"), 99, 10)  # in the WAL, as the ledger stays open
    for file in (written, _anchor(written)):
        shutil.copy(file, tmp_path / file.name)
    ledger.close()
    with pytest.raises(LedgerError, match="old copy"):
        Ledger.open(tmp_path / written.name, ledger._chain._key, limit=LIMIT)


def test_a_missing_or_edited_anchor_is_refused(written: Path, reopen: Open) -> None:
    content = _anchor(written).read_bytes()
    for change in (lambda a: a.unlink(), lambda a: a.write_bytes(b""), lambda a: a.write_text("{}")):
        change(_anchor(written))
        with pytest.raises(LedgerError, match="anchor"):
            reopen()
    value = json.loads(content)
    _anchor(written).write_text(json.dumps(value | {"seq": 3}))
    with pytest.raises(LedgerError, match="not signed"):
        reopen()
    _anchor(written).write_bytes(content)
    reopen().close()


def test_a_lost_ledger_is_not_silently_begun_anew(written: Path, reopen: Open) -> None:
    for file in written.parent.glob("ledger.db*"):
        if file != _anchor(written):
            file.unlink()
    with pytest.raises(LedgerError, match="is gone"):
        reopen()
    written.touch()
    with pytest.raises(LedgerError, match="old copy"):
        reopen()


def test_another_key_is_refused(written: Path) -> None:
    with pytest.raises(LedgerError, match="not signed by this site's key"):
        Ledger.open(written, Ed25519PrivateKey.generate(), limit=LIMIT)
    _anchor(written).unlink()
    with pytest.raises(LedgerError, match="not signed by this site's key"):
        Ledger.open(written, Ed25519PrivateKey.generate(), limit=LIMIT)


def test_a_file_that_is_no_ledger_is_refused(path: Path, reopen: Open) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(LedgerError, match="cannot be used"):
        reopen()


def test_changed_patient_digests_are_found_before_they_matter(written: Path, reopen: Open) -> None:
    _edit(written, "UPDATE cohort SET digests = zeroblob(48)")
    with reopen() as ledger:
        with pytest.raises(LedgerError, match="digests"):
            ledger.plan(patients(1), "next", DpSgdEvent(5.0, 0.01, 10), 1e-5, 1.0)
        with pytest.raises(LedgerError, match="digests"):
            ledger.verify()
    _edit(written, "DELETE FROM cohort")
    with reopen() as ledger, pytest.raises(LedgerError, match="digests"):
        ledger.plan(patients(1), "next", DpSgdEvent(5.0, 0.01, 10), 1e-5, 1.0)


def test_an_entry_of_a_newer_version_is_refused(written: Path, reopen: Open, key: Ed25519PrivateKey) -> None:
    class Newer(State):
        def apply(self, body: dict) -> None:
            if body["kind"] != "gift":
                super().apply(body)

    chain = Chain(written, key, Newer())
    with chain.transaction() as work:
        work.append({"kind": "gift", "time": 0.0})
    chain.close()
    with pytest.raises(LedgerError, match="Update the software"):
        reopen()


@pytest.fixture
def snapshot(written: Path, reopen: Open) -> Path:
    """A ledger long enough to open from a signed snapshot."""
    with reopen() as ledger:
        plan = ledger.find_plan("run")
        with ledger._chain.transaction() as work:
            for number in range(300):
                entry = {"run_id": "run", "reservation": f"r{number}", "steps": 2}
                work.append(ledger._entry("reserve", round=number, holder="0", **entry))
        with ledger._chain.transaction() as work:
            for number in range(300, 600):
                entry = {"run_id": "run", "reservation": f"r{number}", "steps": 2}
                work.append(ledger._entry("reserve", round=number, holder="0", **entry))
        ledger.reserve(plan, 1000, 10).commit(1)  # renews the snapshot first
        assert ledger.verify() == 625
    with closing(sqlite3.connect(written)) as db:
        assert db.execute("SELECT seq FROM snapshot").fetchall() == [(623,)]
    return written


def test_opening_from_a_snapshot_gives_the_same_charges(snapshot: Path, reopen: Open) -> None:
    with reopen() as ledger:
        assert sum(event.steps for event in ledger.events()) == 90 + 1200 + 1
        assert ledger.reserve(ledger.find_plan("run"), 1, 10).steps == 10
        assert ledger.verify() == 626


def test_edits_before_a_snapshot_lower_no_charge_and_fail_verification(snapshot: Path, reopen: Open) -> None:
    change = "CAST(replace(body, '\"steps\":2', '\"steps\":1') AS BLOB)"
    _edit(snapshot, f"UPDATE entry SET body = {change} WHERE seq = 100")
    with reopen() as ledger:
        assert sum(event.steps for event in ledger.events()) == 90 + 1200 + 1
        with pytest.raises(LedgerError):
            ledger.verify()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE snapshot SET state = CAST(replace(state, '\"committed\":90', '\"committed\":0') AS BLOB)",
        "UPDATE snapshot SET seq = 622",
        "UPDATE snapshot SET link = zeroblob(32)",
        "DELETE FROM entry WHERE seq > 600",
        "DELETE FROM entry WHERE seq = 624",
        "UPDATE entry SET body = CAST(replace(body, '\"steps\":1', '\"steps\":0') AS BLOB) WHERE seq = 625",
    ],
)
def test_an_edited_snapshot_or_tail_is_refused(snapshot: Path, reopen: Open, statement: str) -> None:
    _edit(snapshot, statement)
    with pytest.raises(LedgerError):
        reopen()


def test_without_its_snapshot_a_ledger_is_replayed(snapshot: Path, reopen: Open) -> None:
    _edit(snapshot, "DELETE FROM snapshot")
    with reopen() as ledger:
        assert sum(event.steps for event in ledger.events()) == 90 + 1200 + 1


def test_a_snapshot_of_before_charges_named_their_policy_is_replayed_over(
    snapshot: Path, reopen: Open, key: Ed25519PrivateKey
) -> None:
    with closing(sqlite3.connect(snapshot)) as db, db:
        seq, link, state = db.execute("SELECT seq, link, state FROM snapshot").fetchone()
        older = json.loads(state)
        for account in older["accounts"]:
            del account["policies"]
        text = canonical(older)
        db.execute(
            "UPDATE snapshot SET state = ?, signature = ?",
            (text, key.sign(_snapshot_message(seq, link, text))),
        )
    with reopen() as ledger:
        assert sum(event.steps for event in ledger.events()) == 90 + 1200 + 1
        assert ledger.verify() == 625


def test_a_copied_ledger_does_not_double_the_budget(written: Path, reopen: Open, tmp_path: Path) -> None:
    # A copy spends its own copy of the budget, but the receipts of one are not in the other.
    copy = tmp_path / "copy"
    shutil.copytree(written.parent, copy)
    with reopen() as ledger:
        ledger.reserve(ledger.find_plan("run"), 99, 10)
        key, receipt = ledger._chain._key, ledger.head
    with Ledger.open(copy / written.name, key, limit=LIMIT) as other:
        other.reserve(other.find_plan("run"), 99, 10)
        with pytest.raises(LedgerError, match="entry 24"):
            other.verify([receipt])
    shutil.copy(_anchor(copy / written.name), _anchor(written))
    with pytest.raises(LedgerError):
        reopen()


def test_an_exhausted_plan_stays_exhausted_after_reopening(path: Path, key: Ed25519PrivateKey) -> None:
    with Ledger.open(path, key, limit=LIMIT) as ledger:
        plan = ledger.plan(patients(1), "short", DpSgdEvent(1.0, 0.1, 5), 1e-5, 1.0)
        ledger.reserve(plan, 1, 5)
    for _ in range(2):
        with Ledger.open(path, key, limit=LIMIT) as ledger, pytest.raises(BudgetExceeded):
            ledger.reserve(plan, 2, 1)


def test_a_receipt_shows_a_rollback_and_a_fork(written: Path, reopen: Open, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for file in written.parent.glob("ledger.db*"):
        shutil.copy(file, old / file.name)
    with reopen() as ledger:
        early = ledger.receipt()
        plan = ledger.plans()[0]
        ledger.reserve(plan, 9, 1).commit(1)
        late = ledger.receipt()
        ledger.check_receipt(early)
        ledger.check_receipt(late)
        assert Receipt.from_json(late.to_json()) == late
    for file in written.parent.glob("ledger.db*"):
        file.unlink()
    for file in old.iterdir():
        shutil.copy(file, written.parent / file.name)
    with reopen() as ledger:
        ledger.check_receipt(early)
        with pytest.raises(LedgerError, match="old copy"):
            ledger.check_receipt(late)
        ledger.reserve(plan, 9, 1).commit(1)  # another future, as long as the lost one
        with pytest.raises(LedgerError, match="was changed"):
            ledger.check_receipt(late)
        ledger.check_receipt(Receipt(Head(10**6, late.head.link), late.signature))  # not signed: says nothing
    with pytest.raises(LedgerError, match="not readable"):
        Receipt.from_json("[1]")


def test_a_receipt_from_before_a_snapshot_is_checked_in_full(snapshot: Path, reopen: Open) -> None:
    with reopen() as ledger:
        first = json.loads(json.dumps(ledger.export()[0]))
        body, signature = canonical(first["body"]), bytes.fromhex(first["signature"])
        link = next_link(entry_hash(ROOT, body), signature)
        ledger.check_receipt(_signed(ledger, Head(1, link)))
        with pytest.raises(LedgerError, match="was changed"):
            ledger.check_receipt(_signed(ledger, Head(1, ROOT)))


def _signed(ledger: Ledger, head: Head) -> Receipt:
    return receipt_for(head, ledger._chain._key)
