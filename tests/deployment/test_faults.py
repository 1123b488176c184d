"""Faults injected into a federation that runs; then model, ledgers, audit logs and report are checked."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.deployment.live import Federation, RunHandle, processes

LONG = "training.local_epochs=15"  # a round of seconds, so that it can be disturbed
CHEAP = "privacy.target_epsilon=1"


def check(federation: Federation, run: RunHandle, rounds: int) -> None:
    """No round is lost, both sites are in each, nobody is charged less than it ran, the model is the updates' mean."""
    assert [(r["round"], r["changed"]) for r in run.rounds()] == [(n, True) for n in range(1, rounds + 1)]
    for record in run.rounds():
        answered = sorted(line["site"] for line in record["train"] if "refused" not in line)
        assert answered == ["north", "south"], record
    run.check_model(federation.sites)
    for site in federation.sites:
        stated = [
            int(line["released"]["privacy.steps"])
            for record in run.rounds()
            for line in record["train"]
            if line["site"] == site.name
        ]
        assert site.charged(run.run_id) >= sum(stated) > 0
        assert site.audit()  # its chain holds


def kill(process: int | None) -> None:
    assert process is not None
    os.kill(process, signal.SIGKILL)


def test_a_run_survives_the_death_of_node_and_superlink_and_a_broken_network(federation: Federation) -> None:
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
    check(federation, run, 3)


def test_a_training_process_that_is_killed_costs_its_round_and_the_plan_pays(federation: Federation) -> None:
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


def test_a_killed_server_app_resumes_after_the_last_finished_round(federation: Federation) -> None:
    run = federation.begin("federation.rounds=3", LONG, CHEAP)
    run.wait_for_round(1)
    federation.north.wait_until_training(run, 2)
    for process in processes("flwr-serverapp", str(federation.coordinator.link_port)):
        kill(process)
    federation.coordinator("stop", run.name)
    told = federation.coordinator("log", run.name)
    assert "resume" in told
    federation.coordinator("resume", run.name)
    run.wait()
    check(federation, run, 3)


@pytest.mark.slow
def test_a_runner_that_is_killed_leaves_no_process_behind_and_is_replaced(federation: Federation) -> None:
    north = federation.north
    run = federation.begin("federation.rounds=1", LONG, CHEAP)
    north.wait_until_training(run, 1)
    kill(north.runner_process())  # its fork is asked to end, and commits what it ran
    run.wait()
    check(federation, run, 1)
    assert len(processes("client.deploy.runner", str(north.path))) == 1


@pytest.mark.slow
def test_a_site_that_stops_in_a_round_commits_what_it_ran_and_says_so(federation: Federation) -> None:
    south = federation.south
    run = federation.begin("federation.rounds=1", LONG, CHEAP)
    south.wait_until_training(run, 1)
    south.end()
    south.start()
    run.wait()
    check(federation, run, 1)
    line = next(line for line in run.rounds()[0]["train"] if line["site"] == "south")
    assert south.charged(run.run_id) >= int(line["released"]["privacy.steps"])
