"""Supervised processes: started again when they end, stopped together, never left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from mmmed.errors import DeployError
from server.deployment import start
from simulations.loopback.processes import kill, processes, wait_for

ROOT = Path(__file__).parents[2]


def supervise(folder: Path, why: str = "", **programs: str) -> subprocess.Popen[bytes]:
    """A supervisor of python programs, in a process of its own; what it says goes to ``supervisor.log``."""
    script = textwrap.dedent(f"""
        import os, sys
        from pathlib import Path
        from mmmed.processes import Service, Supervisor
        python = [sys.executable, "-u", "-c"]
        services = [
            Service(name, [*python, code], os.environ, why=lambda: {why!r})
            for name, code in {programs!r}.items()
        ]
        Supervisor(services, Path({str(folder)!r})).run()
    """)
    with (folder / "supervisor.log").open("wb") as said:
        return subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=said)


def log(folder: Path, name: str) -> str:
    try:
        return (folder / f"{name}.log").read_text()
    except OSError:
        return ""


def test_a_process_that_ends_is_started_again(tmp_path: Path) -> None:
    supervisor = supervise(tmp_path, short=f"print('here', {str(tmp_path)!r})")
    try:
        wait_for(lambda: log(tmp_path, "short").count("here") >= 2, "a second start")
    finally:
        supervisor.terminate()
        assert supervisor.wait(300) == 0


def test_why_a_process_ends_is_told_once_and_in_place_of_its_last_words(tmp_path: Path) -> None:
    supervisor = supervise(tmp_path, "revoked by the coordinator", short="print('here')")
    try:
        wait_for(lambda: log(tmp_path, "short").count("here") >= 3, "a third start")
    finally:
        supervisor.terminate()
        assert supervisor.wait(300) == 0
    told = log(tmp_path, "supervisor")
    assert told.count("short ended (exit code 0)") == told.count("revoked by the coordinator") == 1
    assert "It last said" not in told


def test_a_killed_process_is_started_again_while_others_run_on(tmp_path: Path) -> None:
    sleep = f"import os, time; print(os.getpid()); {str(tmp_path)!r}; time.sleep(600)"
    supervisor = supervise(tmp_path, one=sleep, two=sleep)
    try:
        wait_for(lambda: bool(log(tmp_path, "one") and log(tmp_path, "two")), "both")
        os.kill(int(log(tmp_path, "one").split()[0]), signal.SIGKILL)
        wait_for(lambda: len(log(tmp_path, "one").split()) == 2, "a second start")
        assert len(log(tmp_path, "two").split()) == 1
    finally:
        supervisor.terminate()
        assert supervisor.wait(300) == 0
    assert processes("-u", str(tmp_path)) == []


def test_what_a_killed_process_had_started_ends_before_the_next_one_starts(tmp_path: Path) -> None:
    """Such as nginx's worker, which holds the port."""
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    parent = f"import os, subprocess, sys, time; print(os.getpid(), {child}.pid); time.sleep(600)"
    supervisor = supervise(tmp_path, one=parent)
    try:
        wait_for(lambda: len(log(tmp_path, "one").split()) == 2, "the process and its child")
        first, its_child = log(tmp_path, "one").split()
        kill(int(first))
        wait_for(lambda: len(log(tmp_path, "one").split()) == 4, "a second start")
        wait_for(lambda: not running(its_child), "the end of the first child")
    finally:
        supervisor.terminate()
        assert supervisor.wait(300) == 0


def running(process: str) -> bool:
    """Whether a process is there and not a zombie, which nobody collects in a container without init."""
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def test_nothing_is_left_behind_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    supervisor = supervise(tmp_path, one=f"import time; print('here'); {str(tmp_path)!r}; time.sleep(600)")
    wait_for(lambda: "here" in log(tmp_path, "one"), "the process")
    supervisor.kill()
    supervisor.wait(300)
    wait_for(lambda: processes("-u", str(tmp_path)) == [], "the end of the process")


def test_a_process_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('here')"
    stubborn = f"{deaf}; {str(tmp_path)!r}\nwhile 1: time.sleep(9)"
    supervisor = supervise(tmp_path, one=stubborn)
    wait_for(lambda: "here" in log(tmp_path, "one"), "the process")
    supervisor.terminate()
    assert supervisor.wait(300) == 0
    assert processes("-u", str(tmp_path)) == []


def test_what_a_stopped_process_had_started_does_not_outlive_it(tmp_path: Path) -> None:
    """Such as a task that sends its answer, which heeds no SIGTERM, and would try for ever."""
    child = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
    popen = f"subprocess.Popen([sys.executable, '-c', {child!r}])"
    supervisor = supervise(tmp_path, one=f"import subprocess, sys, time; print({popen}.pid); time.sleep(600)")
    wait_for(lambda: len(log(tmp_path, "one").split()) == 1, "the process and its child")
    supervisor.terminate()
    assert supervisor.wait(300) == 0
    wait_for(lambda: not running(log(tmp_path, "one").split()[0]), "the end of the child")


def test_a_port_that_a_killed_coordinator_has_left_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as left:
        port = left.getsockname()[1]
        monkeypatch.setattr(start, "_LEAVING", 0.0)
        with pytest.raises(DeployError, match=rf"127.0.0.1:{port}.*Free the port"):
            start._check_free("127.0.0.1", port)
        monkeypatch.setattr(start, "_LEAVING", 300.0)
        ends = threading.Timer(0.5, left.close)
        ends.start()
        start._check_free("127.0.0.1", port)
        assert left.fileno() == -1
        ends.join()
