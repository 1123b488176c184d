"""Faults that are rare and take minutes: ``pytest -m slow tests/deployment/test_rare_faults.py``."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mmmed.federation.protocol import Refusal
from simulations.loopback.hospital import LiveHospital
from simulations.loopback.processes import children, kill, wait_for
from tests.deployment.live import CHEAP, LONG, TwoHospitals

pytestmark = pytest.mark.slow


def test_a_site_that_is_frozen_past_the_time_out_is_left_out_and_comes_back(federation: TwoHospitals) -> None:
    """Runner, task and node stand still, as in a machine that sleeps: their connections stay open and say nothing."""
    north = federation.north
    settings = ("federation.min_sites=1", "federation.round_timeout=90.0", "training.local_epochs=6")
    run = federation.begin("federation.rounds=40", *settings, CHEAP)
    north.wait_until_training(run, 1)
    with frozen(north.task_process(), north.runner_process(), north.node_process()):
        run.wait_for_round(1)

    def took_part() -> list[list[str]]:
        return [sorted(line["site"] for line in r["train"] if "refused" not in line) for r in run.rounds()]

    def both_are_reported() -> bool:  # the report is written after the round's line
        return took_part()[-1] == ["north", "south"] and "north" in run.reported()

    wait_for(both_are_reported, "a round with both")
    federation.coordinator("stop", run.name)
    told = {line["site"]: line.get("refused") for line in run.rounds()[0]["train"]}
    assert told["north"] in (Refusal.NO_REPLY, Refusal.EXPIRED, Refusal.OFFLINE)
    assert took_part()[0] == ["south"]  # which went on
    assert all(record["changed"] for record in run.rounds())
    stated = next(
        line["released"]
        for record in run.rounds()
        for line in record["train"]
        if line["site"] == "north" and "refused" not in line
    )
    assert north.charged(run.run_id) >= int(stated["privacy.steps"]) + 2  # what it ran before it froze, too
    assert run.reported()["north"] >= stated["privacy.epsilon"] * (1 - 1e-9)
    assert north.audit()  # its chain holds


def test_nginx_that_is_killed_in_mid_upload_costs_no_round(federation: TwoHospitals) -> None:
    north, coordinator = federation.north, federation.coordinator
    assert north.link is not None
    run = federation.begin("federation.rounds=2", LONG, CHEAP)
    north.wait_until_training(run, 1)
    north.link.set("slow")  # so that an update is a while on its way
    before = len(north.audit())
    wait_for(lambda: len(north.audit()) > before, "the update to be on its way")
    master = coordinator.process("nginx: master") or coordinator.process("/nginx/nginx.conf")
    workers = children(master)
    kill(master)
    for worker in workers:
        kill(worker)
    north.link.set("pass")
    run.wait()
    federation.check(run, 2)


def test_a_site_ten_times_slower_is_waited_for(federation: TwoHospitals) -> None:
    north = federation.north
    settings = ("training.local_epochs=4", "federation.round_timeout=1200.0")
    run = federation.begin("federation.rounds=1", *settings, CHEAP)
    north.wait_until_training(run, 1)
    with slowed(north, 0.1):
        run.wait()
    federation.check(run, 1)


def test_a_site_is_upgraded_in_the_middle_of_a_run(federation: TwoHospitals, tmp_path: Path) -> None:
    """Its processes end in mid-round and start again as a later version: ledger, keys and kept answers go on."""
    south = federation.south
    later = tmp_path / "later" / "mmmed-99.0.0.dist-info"
    later.mkdir(parents=True)
    (later / "METADATA").write_text("Metadata-Version: 2.1\nName: mmmed\nVersion: 99.0.0\n")
    run = federation.begin("federation.rounds=2", LONG, CHEAP)
    south.wait_until_training(run, 1)
    south.end()
    south.start(environment={"PYTHONPATH": f"{later.parent}:{os.environ.get('PYTHONPATH', '')}"})
    try:
        run.wait()
        federation.check(run, 2)
    finally:
        south.end()
        south.start()


def test_three_deaths_of_the_coordinator_lose_no_round(federation: TwoHospitals) -> None:
    """Of its server app, of its SuperLink, and of all of it at once."""
    coordinator, north = federation.coordinator, federation.north
    run = federation.begin("federation.rounds=3", LONG, CHEAP)
    for number in range(1, 4):
        north.wait_until_training(run, number)
        match number:
            case 3:
                for process in coordinator.server_apps():  # as a power cut
                    kill(process)
                coordinator.end(signal.SIGKILL)
                coordinator.start()
                wait_for(lambda: coordinator("status").count("online") >= 2, "the sites")
                wait_for(run.ended, "the loss of the server app to be noticed")
                coordinator("resume", run.name)
            case 1:
                for process in coordinator.server_apps():
                    kill(process)
                coordinator("stop", run.name)
                coordinator("resume", run.name)
            case 2:
                kill(coordinator.process("flower-superlink"))
    run.wait()
    federation.check(run, 3)


@contextmanager
def frozen(*processes: int | None) -> Iterator[None]:
    """Let processes stand still."""
    found = [process for process in processes if process is not None]
    assert len(found) == len(processes)
    for process in found:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in found:
            os.kill(process, signal.SIGCONT)


@contextmanager
def slowed(site: LiveHospital, part: float) -> Iterator[None]:
    """Let what trains at a site run for this part of the time."""
    done = threading.Event()

    def hold() -> None:
        while not done.wait(0.2 * part):
            if (process := site.task_process()) is not None:
                with frozen_if_there(process):
                    done.wait(0.2 * (1 - part))

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def frozen_if_there(process: int) -> Iterator[None]:
    try:
        os.kill(process, signal.SIGSTOP)
    except ProcessLookupError:
        yield
        return
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)
