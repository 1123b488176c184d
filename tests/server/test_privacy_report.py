"""From the lines of rounds.jsonl to the full privacy report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmmed.config import from_flat
from privacy.errors import ReportError
from privacy.report import verify_report
from server.privacy_report import SpendingLog, keep_statements, privacy_report
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
        body = privacy_report(folder, tuning="none")
    assert body["statements"] == [json.loads(texts[2])]
    assert body["run"]["answered"] == {"north": [[1, 2]]}
    assert (body["run"]["id"], body["run"]["target_epsilon"]) == (folder.run_id, 10.0)
    assert body["summary"]["status"] == "complete" and verify_report(json.loads(json.dumps(body))) == []


@pytest.mark.parametrize("text", [None, 3, "", "{", "[" * 50_000, "9" * 100_000, "null", "other", "renamed"])
def test_an_unusable_statement_leaves_its_site_uncovered(tmp_path: Path, text: Any) -> None:
    with RunFolder.create(tmp_path / "run", CONFIG) as folder:
        if text == "other":
            text = stated(tmp_path, "south", 2, "another run")
        if text == "renamed":
            text = stated(tmp_path, "east", 2, folder.run_id)
        north = stated(tmp_path, "north", 1, folder.run_id)
        finish(folder, {"round": 1, "train": [reply("north", north), reply("south", text)]})
        body = privacy_report(folder)
        assert {site.site for site in SpendingLog(folder).report().sites} == {"north", "south"}
    assert body["summary"]["status"] == "incomplete"
    assert body["sites_without_statement"] == ["south"]


def test_an_older_statement_does_not_cover_later_rounds(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", CONFIG) as folder:
        text = stated(tmp_path, "north", 1, folder.run_id)
        finish(folder, {"round": 1, "train": [reply("north", text)]})
        finish(folder, {"round": 2, "train": [reply("north", "{}")]})
        body = privacy_report(folder)
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
                privacy_report(folder)


def test_a_round_that_is_run_again_counts_once(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", CONFIG) as folder:
        log = SpendingLog(folder)
        for number, sites in ((1, "ab"), (2, "ab"), (2, "b"), (3, "b")):
            log.add({"round": number, "train": [reply(site) for site in sites]})
        rounds = {site.site: [one.round for one in site.rounds] for site in log.report().sites}
    assert rounds == {"a": [1], "b": [1, 2, 3]}
