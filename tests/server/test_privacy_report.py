"""From the lines of rounds.jsonl to the full privacy report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mmmed.config import from_flat
from privacy.errors import ReportError
from privacy.report import verify_report
from server.privacy_report import RunReport, keep_statements
from server.run_folder import RunFolder
from tests.privacy.report.conftest import state

CONFIG = from_flat({"federation.rounds": 4, "privacy.target_epsilon": 10.0, "privacy.delta": 1e-3})
UNSIGNED = {
    "privacy.epsilon": 1.0, "privacy.planned_epsilon": 2.0, "privacy.delta": 1e-3, "privacy.steps": 3,
    "privacy.noise_multiplier": 1.5, "privacy.sampling_rate": 0.25, "privacy.max_grad_norm": 1.0,
}  # fmt: skip


def reply(site: str, statement: Any = None) -> dict[str, Any]:
    extra = {} if statement is None else {"privacy.statement": statement}
    return {"site": site, "seconds": 1.0, "metrics": {}, "released": {**UNSIGNED, **extra}}


def finish(folder: RunFolder, record: dict[str, Any]) -> None:
    """Log a finished round as `server.loop` does."""
    folder.append_round(keep_statements(folder, record))


def stated(tmp_path: Path, site: str, rounds: int, run_id: str) -> str:
    folder = tmp_path / f"{site}-{rounds}"
    folder.mkdir()
    return json.dumps(state(folder, site, run_id=run_id, rounds=rounds))


def test_the_newest_statement_of_each_site_is_reported(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", CONFIG) as folder:
        texts = {rounds: stated(tmp_path, "north", rounds, folder.run_id) for rounds in (1, 2, 3)}
        for number in (1, 2):
            finish(folder, {"round": number, "train": [reply("north", texts[number])]})
        finish(folder, {"round": 3, "train": [{"site": "north", "seconds": 1.0, "refused": "failed"}]})
        body = RunReport(folder).body(tuning="none")
    assert body["statements"] == [json.loads(texts[2])]
    assert body["run"]["answered"] == {"north": [[1, 2]]}
    assert (body["run"]["id"], body["run"]["target_epsilon"]) == (folder.run_id, 10.0)
    assert (body["run"]["done"], body["summary"]["status"]) == (3, "unfinished")
    assert verify_report(json.loads(json.dumps(body))) == []


@pytest.mark.parametrize("text", [None, 3, "", "{", "[" * 50_000, "9" * 100_000, "null", "other", "renamed"])
def test_an_unusable_statement_leaves_its_site_uncovered(tmp_path: Path, text: Any) -> None:
    with RunFolder.create(tmp_path / "run", CONFIG) as folder:
        if text == "other":
            text = stated(tmp_path, "south", 2, "another run")
        if text == "renamed":
            text = stated(tmp_path, "east", 2, folder.run_id)
        north = stated(tmp_path, "north", 1, folder.run_id)
        finish(folder, {"round": 1, "train": [reply("north", north), reply("south", text)]})
        body = RunReport(folder).body()
    assert body["summary"]["status"] == "incomplete"
    assert body["sites_without_statement"] == ["south"]


def test_an_older_statement_does_not_cover_later_rounds(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", CONFIG) as folder:
        text = stated(tmp_path, "north", 1, folder.run_id)
        finish(folder, {"round": 1, "train": [reply("north", text)]})
        finish(folder, {"round": 2, "train": [reply("north", "{}")]})
        body = RunReport(folder).body()
    assert body["summary"]["status"] == "incomplete"
    assert "the first in round 2" in body["sites"][0]["problems"][0]


def test_the_log_holds_no_statement_and_a_spoilt_file_of_them_is_refused(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", CONFIG) as folder:
        finish(folder, {"round": 1, "train": [reply("north", stated(tmp_path, "north", 1, folder.run_id))]})
        assert "signature" not in (folder.path / "rounds.jsonl").read_text()
        kept = folder.path / "statements.json"
        whole = kept.read_text()
        for spoilt in (whole[:-20], "[]", whole.replace('"delta": 0.001', '"delta": 0.0001')):
            assert spoilt != whole
            kept.write_text(spoilt)
            with pytest.raises(ReportError):
                RunReport(folder).body()


def test_rounds_that_are_added_report_as_those_that_are_read(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", CONFIG) as folder:
        text = stated(tmp_path, "north", 3, folder.run_id)
        growing = RunReport(folder)
        for number, answers in ((1, True), (2, False), (3, True), (4, True)):
            line = reply("north", text) if answers else {"site": "north", "refused": "failed"}
            shown = {"site": "north", "metrics": {"auroc": number / 10}}
            record = keep_statements(folder, {"round": number, "train": [line], "evaluate": [shown]})
            folder.append_round(record)
            growing.add(record)
            now, read = (each.body()["run"] | {"generated": ""} for each in (growing, RunReport(folder)))
            assert now == read and now["done"] == number
    assert now["answered"] == {"north": [[1, 1], [3, 4]]} and len(now["utility"]) == 4


def test_a_run_goes_on_where_its_sites_leave_no_report_to_be_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = Ed25519PrivateKey.generate()
    with RunFolder.create(tmp_path / "run", CONFIG) as folder:
        for number, sites in ((1, ["north"]), (2, ["north", "south"])):
            lines = []
            for site in sites:
                own = tmp_path / f"{site}-{number}"
                own.mkdir()
                signed = state(own, site, run_id=folder.run_id, rounds=number, key=key)
                lines.append(reply(site, json.dumps(signed)))
            finish(folder, {"round": number, "train": lines})
            RunReport(folder).write()
        body = json.loads((folder.report / "privacy.json").read_text())
    assert "no privacy report of round 2" in caplog.text and "same key" in caplog.text
    assert body["run"]["done"] == 1 and verify_report(body) == []
