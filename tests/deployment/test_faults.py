"""Faults injected into a federation that runs; then model, ledgers, audit logs and report are checked."""

from __future__ import annotations

import os
import signal
import time

import pytest

from client.node.start import CUT_OFF
from simulations.loopback.hospital import LiveHospital
from simulations.loopback.processes import kill, processes, wait_for
from tests.deployment.live import CHEAP, LONG, TwoHospitals

pytestmark = pytest.mark.slow


def test_a_run_survives_the_death_of_node_and_superlink_and_a_broken_network(
    federation: TwoHospitals,
) -> None:
    north, south = federation.sites
    run = federation.begin("federation.rounds=3", LONG, CHEAP)
    south.wait_until_training(run, 1)
    kill(south.node_process())  # its runner goes on, and keeps the answer for when it is asked again
    north.wait_until_training(run, 2)
    kill(federation.coordinator.process("flower-superlink"))
    south.wait_until_training(run, 3)
    assert south.link is not None
    for fault in ("break", "cut"):
        south.link.set(fault)
        time.sleep(3)
    south.link.set("pass")
    run.wait()
    federation.check(run, 3)


def test_a_training_process_that_is_killed_costs_its_round_and_the_plan_pays(
    federation: TwoHospitals,
) -> None:
    north, south = federation.sites
    run = federation.begin("federation.rounds=2", "federation.min_sites=1", LONG, CHEAP)
    north.wait_until_training(run, 1)
    kill(north.task_process())  # between reserve and commit, as a power cut would
    run.wait()
    first, last = run.rounds()
    assert [line for line in first["train"] if "refused" in line] == []  # it was asked once more
    assert [line["refused"] for line in last["train"] if "refused" in line] == ["budget-exhausted"]
    steps = next(line["released"]["privacy.steps"] for line in first["train"] if line["site"] == "north")
    assert north.charged(run.run_id) == 2 * steps  # both attempts in full: the plan's two rounds
    assert south.charged(run.run_id) == sum(
        line["released"]["privacy.steps"]
        for r in run.rounds()
        for line in r["train"]
        if line["site"] == "south"
    )
    decisions = [entry["decision"] for entry in north.audit() if entry["event"] == "sent"]
    assert "crashed" in decisions and "budget-exhausted" in decisions


def test_a_killed_server_app_resumes_after_the_last_finished_round(federation: TwoHospitals) -> None:
    run = federation.begin("federation.rounds=3", LONG, CHEAP)
    run.wait_for_round(1)
    federation.north.wait_until_training(run, 2)
    for process in federation.coordinator.server_apps():
        kill(process)
    federation.coordinator("stop", run.name)
    told = federation.coordinator("log", run.name)
    assert "resume" in told
    federation.coordinator("resume", run.name)
    run.wait()
    federation.check(run, 3)


@pytest.mark.slow
def test_a_runner_that_is_killed_leaves_no_process_behind_and_is_replaced(federation: TwoHospitals) -> None:
    north = federation.north
    run = federation.begin("federation.rounds=1", LONG, CHEAP)
    north.wait_until_training(run, 1)
    kill(north.runner_process())  # its fork is asked to end, and commits what it ran
    run.wait()
    federation.check(run, 1)
    assert len(processes("client.node.runner", str(north.path))) == 1


@pytest.mark.slow
def test_an_answer_that_is_cut_off_is_sent_again_by_a_new_node(federation: TwoHospitals) -> None:
    """The node that was handed half an answer waits for the rest of it for ever."""
    north = federation.north
    run = federation.begin("federation.rounds=2", LONG, CHEAP)
    north.wait_until_training(run, 1)
    node = north.node_process()
    assert node is not None
    sent = _sent(north)
    os.kill(node, signal.SIGSTOP)  # takes what the training process begins to send, and does not answer
    wait_for(lambda: _sent(north) > sent, "the answer to be on its way")
    kill(north.task_process())
    os.kill(node, signal.SIGCONT)
    run.wait()
    assert CUT_OFF in north.said("runner")
    assert north.node_process() != node
    federation.check(run, 2)


def _sent(site: LiveHospital) -> int:
    return sum(entry["event"] == "sent" for entry in site.audit())


@pytest.mark.slow
def test_a_site_that_stops_in_a_round_commits_what_it_ran_and_says_so(federation: TwoHospitals) -> None:
    south = federation.south
    run = federation.begin("federation.rounds=1", LONG, CHEAP)
    south.wait_until_training(run, 1)
    south.end()
    south.start()
    run.wait()
    federation.check(run, 1)
    line = next(line for line in run.rounds()[0]["train"] if line["site"] == "south")
    assert south.charged(run.run_id) >= int(line["released"]["privacy.steps"])
