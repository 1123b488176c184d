"""A coordinator and two hospitals as separate processes, TLS and keys on: what a run does, and what a site refuses."""

from __future__ import annotations

import json
import re

import pytest

from mmmed.dashboard.metrics import exposition
from privacy.errors import LedgerError
from server.dashboard.gauges import federation_gauges
from server.deployment.folder import Folder
from simulations.loopback.federation import TINY
from simulations.loopback.processes import wait_for
from tests.deployment.live import TwoHospitals


def test_a_private_run_trains_charges_and_reports(federation: TwoHospitals) -> None:
    run = federation.begin("privacy.target_epsilon=2").wait()
    assert [record["changed"] for record in run.rounds()] == [True, True]
    assert {line["site"] for line in run.rounds()[0]["train"]} == {"north", "south"}
    assert run.refused() == []
    report = json.loads((run.folder / "report" / "privacy.json").read_text())
    spent = {site["site"]: site["epsilon_charged"] for site in report["sites"]}
    assert set(spent) == {"north", "south"}
    assert all(0 < epsilon <= 2 for epsilon in spent.values())
    for site in federation.sites:
        stated = [
            line["released"]["privacy.steps"]
            for r in run.rounds()
            for line in r["train"]
            if line["site"] == site.name
        ]
        assert site.charged(run.run_id) == sum(stated) > 0
        (asked, sent) = [
            entry for entry in site.audit() if entry.get("round") == "1" or entry["event"] == "sent"
        ][:2]
        assert (asked["event"], sent["event"]) == ("asked", "sent")
    told = federation.coordinator("log", run.name)
    assert "round 2" in told and "finished:completed" in told
    crossed = sum(
        line["bytes_up"] for r in run.rounds() for part in ("train", "evaluate") for line in r[part]
    )
    assert crossed > 100_000
    assert " MB up" in told
    assert f"{crossed / 1e6:.1f} MB" in federation.coordinator("status")
    scraped = exposition(federation_gauges(Folder(federation.coordinator.folder)))
    for line in (
        "mmmed_superlink_up 1",
        'mmmed_site_online{site="north"} 1',
        f'mmmed_run_rounds_finished{{run="{run.name}",state="finished:completed"}} 2',
    ):
        assert line in scraped.splitlines()


def test_connected_sites_are_asked_what_they_would_refuse_and_nothing_changes_there(
    federation: TwoHospitals,
) -> None:
    north, south = federation.sites
    settings = [part for one in TINY for part in ("--set", one)]

    def kept() -> list[tuple[list[str], dict[str, bytes]]]:
        """What waits for approval, and all files of the states but logs and locks."""
        return [
            (
                sorted(path.name for path in site.node.runs.iterdir()),
                {
                    str(path): path.read_bytes()
                    for path in site.folder.state.rglob("*")
                    if path.is_file() and path.suffix not in (".log", ".lock")
                },
            )
            for site in federation.sites
        ]

    south.folder.write_site(approval=True)
    try:
        before = kept()
        told = federation.coordinator("check", *settings, "--wait", 300)
        assert "north: would take part\n" in told
        assert "south: its policy allows the run; somebody there has to approve it\n" in told
        assert re.search("^(gone|other|probe): not connected$", told, re.MULTILINE), (
            told
        )  # whom no test revoked
        assert re.search(r"^2 of \d+ would take part; a round needs 2;", told, re.MULTILINE)
        greedy = ("--set", "privacy.target_epsilon=50", "--wait", 300)
        told = federation.coordinator("check", *settings, *greedy, check=False)
        for name in ("north", "south"):
            line = f"{name}: WOULD REFUSE training by its rule run.epsilon: policy-refused (the site's policy"
            assert line in told
        assert re.search(r"^0 of \d+ would take part", told, re.MULTILINE)
        assert kept() == before
    finally:
        south.folder.write_site(approval=False)
    assert [entry["kind"] for entry in north.audit() if entry["event"] == "asked"][-2:] == ["query.check"] * 2
    assert not list((federation.coordinator.folder / "checks").iterdir())


def test_a_run_that_no_policy_admits_ends_as_failed_and_says_by_which_code(federation: TwoHospitals) -> None:
    run = federation.begin("privacy.target_epsilon=50")
    wait_for(run.ended, "the run to end")
    assert run.state().status == "finished:failed"
    assert run.refused() == ["policy-refused"] * 4 and not any(one["changed"] for one in run.rounds())
    told = federation.coordinator("log", run.name)
    for name in ("north", "south"):
        assert f"{name} policy-refused (the site's policy does not allow it)" in told
    assert (
        "no round changed the model" in told and "mmmed server resume" not in told
    )  # it would change nothing
    for site in federation.sites:
        with pytest.raises(LedgerError, match="no plan"):
            site.charged(run.run_id)
        assert any("run.epsilon" in line for line in site.refusals())


def test_doctor_finds_a_site_that_takes_part_in_good_health(federation: TwoHospitals) -> None:
    told = federation.north("doctor")
    assert "BAD" not in told
    for check in (
        "clock",
        "this site's certificate",
        "DNS",
        "port",
        "TLS",
        "admission",
        "disk",
        "GPU",
        "data",
        "policy",
        "budget",
    ):
        assert check in told
