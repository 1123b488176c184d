"""Faults that take minutes: ``pytest -m slow tests/deployment``."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.checkpoint import Arrays, load_checkpoint
from server.deployment.folder import Folder
from server.deployment.sites import read_sites
from simulations.loopback.coordinator import RunHandle
from simulations.loopback.processes import wait_for
from simulations.loopback.undisturbed import equals_undisturbed
from tests.deployment.live import CHEAP, LONG, TwoHospitals

pytestmark = pytest.mark.slow


def test_two_runs_at_once_both_end_well(federation: TwoHospitals) -> None:
    first = federation.begin("federation.rounds=2", CHEAP)
    second = federation.begin("federation.rounds=2", CHEAP, "training.seed=1")
    first.wait()
    second.wait()
    federation.check(first, 2)
    federation.check(second, 2)


def test_a_run_is_held_until_it_is_approved_while_others_go_on(federation: TwoHospitals) -> None:
    north = federation.north
    north.folder.write_site(approval=True)
    try:
        held = federation.begin("federation.rounds=1", CHEAP)
        wait_for(lambda: held.run_id[:12] in north("runs"), "the request for approval")
        told = north("runs")
        assert "waiting" in told and "privacy.target_epsilon = 1.0" in told
        north("approve", held.run_id[:12])
        held.wait()
        federation.check(held, 1)
        decisions = [entry.get("decision") for entry in north.audit()]
        assert "awaiting-approval" in decisions
        denied = federation.begin("federation.rounds=1", CHEAP)
        wait_for(lambda: denied.run_id[:12] in north("runs"), "the request for approval")
        north("deny", denied.run_id[:12])
        denied.wait()
        assert denied.refused() == ["not-approved"]
        assert denied.rounds()[0]["changed"] is False  # south alone is too few
    finally:
        north.folder.write_site(approval=False)


def test_a_site_joins_after_round_two_and_is_asked_from_then_on(federation: TwoHospitals) -> None:
    south = federation.south
    south.end()
    run = federation.begin("federation.rounds=40", "federation.min_sites=1", CHEAP)
    run.wait_for_round(2)
    south.start()

    def took_part() -> list[list[str]]:
        return [sorted(line["site"] for line in r["train"] if "refused" not in line) for r in run.rounds()]

    wait_for(lambda: took_part()[-2:] == [["north", "south"]] * 2, "two rounds with both")
    federation.coordinator("stop", run.name)
    assert took_part()[:2] == [["north"], ["north"]]
    assert all(record["changed"] for record in run.rounds())
    federation.check_ledgers(run)
    assert equals_undisturbed(run, federation.sites)


def test_a_slow_link_is_slow_and_nothing_else(federation: TwoHospitals) -> None:
    assert federation.south.link is not None
    federation.south.link.set("slow")
    try:
        run = federation.begin("federation.rounds=1", CHEAP)
        run.wait()
        federation.check(run, 1)
    finally:
        federation.south.link.set("pass")


def test_a_black_hole_for_longer_than_a_site_is_missed_costs_no_round(federation: TwoHospitals) -> None:
    south = federation.south
    run = federation.begin("federation.rounds=2", LONG, CHEAP)
    south.wait_until_training(run, 1)
    assert south.link is not None
    south.link.set("hole")
    time.sleep(45)
    south.link.set("pass")
    run.wait()
    federation.check(run, 2)


def test_a_server_restored_from_an_old_backup_charges_nobody_twice(federation: TwoHospitals) -> None:
    """The backup knows one round of a run and lists a site that was revoked since."""
    coordinator = federation.coordinator
    run = federation.begin("federation.rounds=3", LONG, CHEAP)
    run.wait_for_round(1)
    backup = coordinator.home / "backup"
    shutil.copytree(run.folder, backup / "run")  # as a backup job does, while the run goes on
    shutil.copy(coordinator.folder / "sites.json", backup / "sites.json")
    run.wait()
    federation.check(run, 3)
    charged = [site.charged(run.run_id) for site in federation.sites]
    model = _model(run)
    if not any(site.name == "gone" and site.revoked for site in read_sites(Folder(coordinator.folder))):
        coordinator("revoke", "gone")
    coordinator.end()
    shutil.rmtree(run.folder)
    shutil.copytree(backup / "run", run.folder)
    shutil.copy(backup / "sites.json", coordinator.folder / "sites.json")
    coordinator.start()

    def state_of_gone() -> str:
        return next(
            line.split()[1] for line in coordinator("status").splitlines() if line.startswith("gone ")
        )

    wait_for(lambda: state_of_gone() == "revoked", "the revocation to be noticed")
    wait_for(lambda: coordinator("status").count("online") >= 2, "the sites")
    coordinator("resume", run.name)
    run.wait()
    assert [site.charged(run.run_id) for site in federation.sites] == charged
    again = _model(run)
    assert all((again[name] == value).all() for name, value in model.items())


def _model(run: RunHandle) -> Arrays:
    """The trainable parameters of its newest checkpoint."""
    checkpoint = load_checkpoint(run.folder / "checkpoints")
    assert checkpoint is not None and checkpoint.round == len(run.rounds())
    return checkpoint.model


@contextlib.contextmanager
def small_disk(at: Path, size: str) -> Iterator[None]:
    """A file system of its own, so small that it can be filled."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    at.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", at], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte free."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"\0" * 4096):
            pass
    return path


def test_a_full_disk_at_the_server_stops_the_run_and_resume_ends_it(federation: TwoHospitals) -> None:
    coordinator = federation.coordinator
    runs = coordinator.folder / "runs"
    with small_disk(runs, "40m"):
        run = federation.begin("federation.rounds=2", LONG, CHEAP)
        run.wait_for_round(1)
        filler = fill(runs)
        wait_for(lambda: run.state().status == "finished:failed", "the run to fail", 240)
        filler.unlink()
        coordinator("resume", run.name)
        run.wait()
        federation.check(run, 2)


def test_a_full_disk_at_a_site_sends_nothing_and_charges_no_less_than_it_ran(
    federation: TwoHospitals,
) -> None:
    south = federation.south
    state = south.folder.state
    south.end()
    kept = state.with_name("state-kept")
    state.rename(kept)
    with small_disk(state, "30m"):
        shutil.copytree(kept, state, dirs_exist_ok=True)
        south.start()
        filler = fill(state)
        run = federation.begin("federation.rounds=1", "federation.min_sites=1", CHEAP).wait()
        assert run.refused() == ["ledger-unusable"]
        filler.unlink()
        good = federation.begin("federation.rounds=1", CHEAP).wait()
        federation.check(good, 1)
        south.end()
        shutil.copytree(state, kept, dirs_exist_ok=True)
    state.rmdir()
    kept.rename(state)
    south.start()
