"""Kill -9, concurrent processes, full disks and read-only files: never less is charged than was run."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.accounting import DpSgdEvent
from privacy.disk import file_system
from privacy.errors import BudgetExceeded, LedgerError
from privacy.ledger import Budget, Ledger, Plan, chain
from tests.privacy.ledger.cohort import patients

Open = Callable[[], Ledger]


def _steps(ledger: Ledger) -> int:
    return sum(event.steps for event in ledger.events())


def _fork(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def _long_plan(ledger: Ledger) -> Plan:
    return ledger.plan(patients(1, 2), "run", DpSgdEvent(50.0, 0.01, 1_000_000), 1e-5, 1.0)


_PHASES = ("opening", "reserving", "training", "committing")


def _kill_often(kills: int, ran: Path, reopen: Open) -> dict[str, int]:
    """Kill a site's process again and again; how often it died in each phase. Charged is never less than was run."""
    with reopen() as ledger:
        plan = _long_plan(ledger)
    ran.touch()
    phase = mmap.mmap(-1, 1)  # shared with the child: what it was doing when it died

    def train() -> None:
        # One unbuffered byte for every step that "touches data", between reserve and commit.
        record = os.open(ran, os.O_WRONLY | os.O_APPEND)
        with reopen() as ledger:
            for number in range(10_000):
                phase[0] = 1
                reservation = ledger.reserve(plan, number, 7)
                phase[0] = 2
                steps = random.randint(0, 7)
                for _ in range(steps):
                    os.write(record, b".")
                    time.sleep(0.0002)
                phase[0] = 3
                reservation.commit(steps)

    died = dict.fromkeys(_PHASES, 0)
    for number in range(kills):
        phase[0] = 0
        child = _fork(train)
        time.sleep(random.uniform(0.0, 0.04))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        died[_PHASES[phase[0]]] += 1
        with reopen() as ledger:
            charged, run = _steps(ledger), ran.stat().st_size
            assert run <= charged <= run + 7 * (number + 1)
    with reopen() as ledger:
        ledger.verify()
        assert ran.stat().st_size <= _steps(ledger)
    return died


def test_killed_at_any_point_never_charges_less_than_was_run(tmp_path: Path, reopen: Open) -> None:
    died = _kill_often(100, tmp_path / "ran", reopen)
    assert died["reserving"] + died["training"] + died["committing"] > 0


@pytest.mark.slow
def test_killed_thousands_of_times_at_every_step(tmp_path: Path, reopen: Open) -> None:
    died = _kill_often(3000, tmp_path / "ran", reopen)
    print(died)
    assert min(died.values()) > 50


def test_killed_while_it_is_created_leaves_a_ledger_or_none(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    for number in range(40):
        path = tmp_path / f"{number}" / "ledger.db"

        def create(path: Path = path) -> None:
            with Ledger.open(path, key, limit=Budget(1.0, 1e-5)) as ledger:
                ledger.plan(patients(1), "run", DpSgdEvent(50.0, 0.01, 10), 1e-5, 1.0)

        child = _fork(create)
        time.sleep(random.uniform(0.0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with Ledger.open(path, key, limit=Budget(1.0, 1e-5)) as ledger:
            ledger.verify()


_TRACED = """
import os, sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from privacy.accounting import DpSgdEvent
from privacy.ledger import Budget, Ledger
from tests.privacy.ledger.cohort import patients

def done(what):
    os.write(2, f"mark {what}\\n".encode())

with Ledger.open(Path(sys.argv[1]), Ed25519PrivateKey.generate(), limit=Budget(8.0, 1e-5)) as ledger:
    done("opened")
    plan = ledger.plan(patients(1, 2), "run", DpSgdEvent(50.0, 0.01, 1000), 1e-5, 1.0)
    done("planned")
    for _ in range(3):
        held = ledger.reserve(plan, 1, 5)
        done("reserved")
        held.commit(5)
        done("committed")
"""


def test_every_entry_is_flushed_to_disk_before_it_counts(path: Path, tmp_path: Path) -> None:
    """What the kernel was asked for, by strace: a power cut cannot be had in a test."""
    trace = tmp_path / "trace"
    calls = [
        "strace",
        "-f",
        "-y",
        "-s",
        "200",
        "-e",
        "trace=fsync,fdatasync,pwrite64,write",
        "-o",
        str(trace),
    ]
    if shutil.which("strace") is None or subprocess.run(["strace", "true"], capture_output=True).returncode:
        pytest.skip("strace is not installed, or may not trace here")
    subprocess.run([*calls, sys.executable, "-c", _TRACED, str(path)], check=True, capture_output=True)
    wal, unflushed, marks = f"<{path}-wal>", False, []
    synced = set()
    for line in trace.read_text().splitlines():
        if "sync(" in line:
            synced.add(line[line.index("<") + 1 : line.index(">")])
            unflushed &= wal not in line
        elif wal in line:
            unflushed = True
        elif "mark " in line:
            marks.append((line.partition("mark ")[2].partition("\\")[0], unflushed))
    assert marks == [(what, False) for what in ("opened", "planned", *("reserved", "committed") * 3)]
    # The names as well: of the file, of its folder, and of its anchor.
    assert {str(path.parent), str(path.parent.parent)} <= synced
    assert any(name.startswith(f"{path.with_name(f'.{path.name}')}.anchor") for name in synced)


def test_the_database_is_told_to_flush(reopen: Open) -> None:
    with reopen() as ledger:
        found = {
            name: ledger._chain._db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "fullfsync", "checkpoint_fullfsync")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "fullfsync": 1, "checkpoint_fullfsync": 1}


def test_a_network_disk_is_refused(tmp_path: Path, reopen: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    share = tmp_path / "a share"
    mounts.write_text(
        "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
        f"40 22 0:40 / {str(share).replace(' ', chr(92) + '040')} rw - nfs4 server:/share rw\n"
    )
    assert file_system(share / "state", mounts) == "nfs4"
    assert file_system(tmp_path, mounts) == "ext4"
    assert file_system(tmp_path, tmp_path / "none") == ""
    if Path("/proc/self/mountinfo").exists():
        assert file_system(Path("/proc")) == "proc"
    monkeypatch.setattr(chain, "file_system", lambda path: "nfs4")
    with pytest.raises(LedgerError, match="local disk"):
        reopen()


def test_processes_at_once_share_one_plan_and_one_limit(path: Path, key: Ed25519PrivateKey) -> None:
    def compete() -> None:
        with Ledger.open(path, key, limit=Budget(4.0, 1e-5)) as ledger:
            plan = ledger.plan(patients(1, 2), "run", DpSgdEvent(1.5, 0.05, 200), 1e-5, 1.0)
            for number in range(1000):
                try:
                    reservation = ledger.reserve(plan, number, 15)
                    reservation.commit(reservation.steps)
                except BudgetExceeded:
                    return

    children = [_fork(compete) for _ in range(6)]  # they also race to create the file
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 6
    with Ledger.open(path, key, limit=Budget(4.0, 1e-5)) as ledger:
        assert _steps(ledger) == 200
        assert len(ledger.plans()) == 1
        ledger.verify()


def test_processes_at_once_cannot_overbook_the_limit(path: Path, key: Ed25519PrivateKey) -> None:
    with Ledger.open(path, key, limit=Budget(8.0, 1e-5)) as ledger:
        first = ledger.plan(patients(1), "first", DpSgdEvent(1.5, 0.05, 200), 1e-5, 1.0)
        ledger.reserve(first, 1, 1)

    def plan(number: int) -> None:
        with Ledger.open(path, key, limit=Budget(8.0, 1e-5)) as ledger:
            for attempt in range(3):
                try:
                    ledger.plan(patients(1), f"{number}-{attempt}", DpSgdEvent(1.5, 0.05, 200), 1e-5, 1.0)
                except BudgetExceeded:
                    return

    children = [_fork(lambda number=number: plan(number)) for number in range(4)]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    with Ledger.open(path, key, limit=Budget(8.0, 1e-5)) as ledger:
        assert ledger.filter_epsilon() <= 8.0
        assert len(ledger.plans()) == 6  # of 13 wanted: the filter reads 7.44 at six and 8.3 at seven


def test_threads_share_an_opened_ledger(reopen: Open) -> None:
    with reopen() as ledger:
        plan = _long_plan(ledger)
        failed = []

        def work() -> None:
            try:
                for number in range(20):
                    ledger.reserve(plan, number, 5).commit(2)
            except Exception as error:  # reported by the assertion below
                failed.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert _steps(ledger) == 4 * 20 * 2
        ledger.verify()


def test_two_opened_ledgers_see_each_other(reopen: Open) -> None:
    with reopen() as one, reopen() as two:
        plan = _long_plan(one)
        assert two.find_plan("run") == plan
        two.reserve(plan, 1, 5)
        assert _steps(one) == 5
        one.reserve(plan, 1, 5).commit(1)
        assert _steps(two) == 6


def test_a_full_disk_grants_nothing_and_loses_nothing(reopen: Open, path: Path) -> None:
    with reopen() as ledger:
        plan = _long_plan(ledger)
        ledger.reserve(plan, 0, 5)

    def fill() -> None:
        size = max(file.stat().st_size for file in path.parent.iterdir())
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 16_384, size + 16_384))
        granted = 1
        with reopen() as ledger:
            try:
                for number in range(1000):
                    ledger.reserve(plan, number, 5)
                    granted += 1
            except LedgerError:
                pass
            assert granted < 1000
            assert _steps(ledger) >= 5 * granted
            (path.parent / "granted").write_text(str(granted))

    assert os.waitstatus_to_exitcode(os.waitpid(_fork(fill), 0)[1]) == 0
    granted = int((path.parent / "granted").read_text())
    with reopen() as ledger:
        assert _steps(ledger) >= 5 * granted
        ledger.reserve(plan, 1, 5)
        ledger.verify()


def test_a_read_only_ledger_is_refused_before_training(reopen: Open, path: Path) -> None:
    with reopen() as ledger:
        plan = _long_plan(ledger)
    for file in (path, *path.parent.iterdir()):
        file.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
    for folder in (path.parent, *path.parent.parents):
        if folder.stat().st_uid == os.getuid() and len(folder.parts) > 2:
            folder.chmod(folder.stat().st_mode & ~0o222 | 0o555)

    def attempt() -> None:
        if os.getuid() == 0:
            os.setuid(65534)  # permissions do not bind root
        try:
            reopen()
        except LedgerError:
            return
        raise AssertionError

    try:
        assert os.waitstatus_to_exitcode(os.waitpid(_fork(attempt), 0)[1]) == 0
    finally:
        for folder in (path.parent, *path.parent.parents):
            if folder.stat().st_uid == os.getuid() and len(folder.parts) > 2:
                folder.chmod(0o755)
        for file in path.parent.iterdir():
            file.chmod(0o600)
    with reopen() as ledger:
        ledger.reserve(plan, 1, 1)


def test_a_closed_ledger_is_refused(reopen: Open) -> None:
    ledger = reopen()
    plan = _long_plan(ledger)
    ledger.close()
    with pytest.raises(LedgerError):
        ledger.reserve(plan, 1, 1)


def test_only_the_owner_can_read_the_files(reopen: Open, path: Path) -> None:
    with reopen() as ledger:
        _long_plan(ledger)
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file


def test_importing_the_ledger_does_not_load_torch() -> None:
    code = "import privacy.ledger, sys; print({'torch', 'opacus', 'scipy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def _reserve_once(arguments: tuple[Path, bytes, Plan]) -> int:
    path, secret, plan = arguments
    with Ledger.open(path, Ed25519PrivateKey.from_private_bytes(secret), limit=Budget(8.0, 1e-5)) as ledger:
        return ledger.reserve(plan, 1, 5).steps


def test_a_plan_travels_to_a_spawned_worker(reopen: Open, path: Path, key: Ed25519PrivateKey) -> None:
    with reopen() as ledger:
        plan = _long_plan(ledger)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_reserve_once, [(path, key.private_bytes_raw(), plan)]) == [5]
