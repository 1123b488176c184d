"""The server hands a site's newest receipt back, and so is the witness that its ledger was not restored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from client.refusal_log import refusals
from mmmed.config import RunConfig
from mmmed.models import build_model
from server.ledger_receipts import FILE, Receipts
from server.run import federate
from server.run_folder import RunFolder
from simulations.grid import InProcessGrid

if TYPE_CHECKING:
    from tests.client.conftest import Hospital


def _refused(path: Path, config: RunConfig, hospital: Hospital) -> list[str | None]:
    """A run of one round with that hospital alone; its code of refusal, or None."""
    node = {"site-dir": str(hospital.path)}
    with (
        RunFolder.create_or_open(path, config) as folder,
        InProcessGrid("client.app:app", [node], workers=0) as grid,
    ):
        federate(grid, folder, build_model(config))
        return [line.get("refused") for record in folder.rounds() for line in record["train"]]


def test_a_later_run_shows_that_a_sites_whole_state_was_restored(
    hospital: Hospital, configured: Callable[..., RunConfig], tmp_path: Path
) -> None:
    hospital.sign(by_two=True, limit__epsilon=30.0, period__epsilon=30.0, purposes={"training": 30.0})
    config = configured(federation={"rounds": 1, "min_sites": 1}, privacy={"metrics": "none"})
    runs = tmp_path / "runs"
    assert _refused(runs / "first", config, hospital) == [None]
    shutil.copytree(hospital.state, tmp_path / "backup")
    assert _refused(runs / "second", config, hospital) == [None]
    shutil.rmtree(hospital.state)
    shutil.copytree(tmp_path / "backup", hospital.state)
    assert _refused(runs / "third", config, hospital) == ["ledger-unusable"]
    assert "old copy" in refusals(hospital.state)[-1]
    (runs / FILE).unlink()  # a coordinator who keeps no receipts takes this check away, and nothing else
    assert _refused(runs / "fourth", config, hospital) == [None]


def test_receipts_survive_and_hold_nothing_but_receipts(tmp_path: Path) -> None:
    receipts = Receipts(tmp_path / FILE)
    assert receipts.of(1) == ""
    receipts.keep(1, '[3, "aa", "bb"]')
    receipts.keep(2, '[4, "aa", "bb"]')
    receipts.keep(1, '[5, "aa", "bb"]')
    for unusable in (None, 7, "", "x" * 1001, b"bytes"):
        receipts.keep(1, unusable)
    again = Receipts(tmp_path / FILE)
    assert (again.of(1), again.of(2), again.of(3)) == ('[5, "aa", "bb"]', '[4, "aa", "bb"]', "")
    for damage in ("", "no json", json.dumps([1])):
        (tmp_path / FILE).write_text(damage)
        assert Receipts(tmp_path / FILE).of(1) == ""
