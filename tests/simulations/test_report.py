"""The privacy report of a real run as it goes on: after each round, after a kill, after it was resumed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmmed.config import RunConfig, from_flat
from mmmed.data.manifest import read_table, table_file
from privacy.report import unfinished, verify_report
from server.events import Event, RoundFinished, ignore
from server.run import federate
from server.run_folder import RunFolder
from simulations.grid import InProcessGrid
from simulations.simulate import CLIENT_APP, preflight, site_nodes
from tests.simulations.conftest import ROOT

SETTINGS: dict[str, object] = {
    "data.image_size": 32,
    "data.text_tokens": 16,
    "model.image_width": 8,
    "model.fusion.width": 16,
    "training.batch_size": 8,
    "training.local_epochs": 1.0,
    "federation.rounds": 3,
}


def settings(hospitals: Path) -> RunConfig:
    return from_flat({**SETTINGS, "data.source": str(hospitals)})


def drive(path: Path, config: RunConfig, on_event: Callable[[Event], None] = ignore) -> None:
    """Start the run of that folder, or go on with it, with all its sites in this process."""
    prepared = preflight(config, "inprocess")
    with RunFolder.create_or_open(path, config) as run:
        nodes = list(site_nodes(run, prepared.manifest).values())
        with InProcessGrid(CLIENT_APP, nodes, workers=0) as grid:
            federate(grid, run, prepared.model, on_event)


def killed(path: Path, hospitals: Path, where: str) -> None:
    """The same in a process that dies by kill -9 where the script says so."""
    script = f"""
import os, signal
from pathlib import Path
from server.events import RoundFinished
from server.privacy_report import RunReport
from tests.simulations.test_report import drive, settings
def die(): os.kill(os.getpid(), signal.SIGKILL)
def watch(event): pass
{where}
drive(Path({str(path)!r}), settings(Path({str(hospitals)!r})), watch)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def reported(run: Path) -> dict[str, Any]:
    """The report as it is on the disk; nothing is wrong with it, and its page is of the same round."""
    body: dict[str, Any] = json.loads((run / "report" / "privacy.json").read_text())
    assert verify_report(body) == []
    page = (run / "report" / "privacy.html").read_text()
    assert body["digest"] in page and ("not finished" in page) is bool(unfinished(body))
    assert sorted(file.name for file in (run / "report").iterdir()) == ["privacy.html", "privacy.json"]
    return body


def test_after_each_round_the_report_is_there_and_says_how_far_the_run_is(
    hospitals: Path, tmp_path: Path
) -> None:
    run, seen = tmp_path / "run", []

    def watch(event: Event) -> None:
        if isinstance(event, RoundFinished):
            body = reported(run)
            assert body["run"]["done"] == body["summary"]["rounds_done"] == event.round
            assert all(site["course"][-1][0] == event.round for site in body["sites"])
            seen.append((body["summary"]["status"], unfinished(body)))

    drive(run, settings(hospitals), watch)
    assert seen == [
        *(("unfinished", [f"The run is not finished: {n} of 3 rounds done."]) for n in (1, 2)),
        ("complete", []),
    ]
    text = (run / "report" / "privacy.json").read_text() + (run / "report" / "privacy.html").read_text()
    patients = read_table(table_file(hospitals, settings(hospitals).data))["patient_id"].unique()
    assert len(patients) > 20 and not any(str(patient) in text for patient in patients)


def test_a_killed_run_leaves_a_report_of_its_rounds_and_a_resumed_one_finishes_it(
    mmmed: Callable[..., tuple[int, str, str]], hospitals: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    killed(run, hospitals, "def watch(e):\n    if isinstance(e, RoundFinished) and e.round == 2: die()")
    early = reported(run)
    assert early["summary"]["status"] == "unfinished" and early["run"]["done"] == 2
    code, out, _ = mmmed("privacy", "verify", run / "report" / "privacy.json")
    assert code == 3 and "2 of 3 rounds done" in out and "every number follows" in out

    # dies again when the last round is on the disk, and its report is not
    killed(run, hospitals, "RunReport.write = lambda self: die()")
    assert reported(run) == early
    drive(run, settings(hospitals))  # asks nobody
    whole = reported(run)
    assert whole["summary"]["status"] == "complete" and unfinished(whole) == []
    assert mmmed("privacy", "verify", run / "report" / "privacy.json")[0] == 0

    # what somebody added to the report of a finished run stays when it is resumed
    assert mmmed("privacy", "report", run, "--untuned")[0] == 0
    drive(run, settings(hospitals))
    assert reported(run)["run"]["tuning"] == "none"

    # the early report with the last round's number on it
    forged = run / "forged.json"
    forged.write_text(json.dumps({**early, "run": {**early["run"], "done": 3}}))
    assert mmmed("privacy", "verify", forged)[0] == 1


@pytest.mark.parametrize("left", ["", "{", "[]", '{"run": {"done": 1}}'])
def test_a_damaged_or_older_report_of_a_finished_run_is_written_anew(
    hospitals: Path, tmp_path: Path, left: str
) -> None:
    run, config = tmp_path / "run", from_flat({**SETTINGS, "federation.rounds": 2, "privacy.enabled": False,
                                               "data.source": str(hospitals)})  # fmt: skip
    drive(run, config)
    (run / "report" / "privacy.json").write_text(left)
    drive(run, config)
    assert reported(run)["run"]["done"] == 2
