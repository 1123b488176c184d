"""The sweep over levers: every cell is a valid run, and what is done is not done again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulations.bench import utility
from simulations.bench.utility import LEVERS, Cell, main


@pytest.mark.parametrize("lever", LEVERS)
def test_every_lever_is_a_valid_configuration(lever: str) -> None:
    private, plain = (Cell(lever, epsilon, 0).config(None, None) for epsilon in ("1", "none"))
    assert private.privacy.target_epsilon == 1 and not plain.privacy.enabled
    assert len({Cell(name, "1", 0).folder for name in LEVERS}) == len(LEVERS)


def test_finished_cells_are_found_and_averaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []

    def run(config: object, *, folder: Path, engine: str, workers: int) -> Path:
        ran.append(folder.name)
        folder.mkdir(parents=True)
        value = 0.6 + 0.1 * len(ran)
        interval = {"value": value, "low": value - 0.1, "high": value + 0.1}
        (folder / "evaluation.json").write_text(
            json.dumps({"auroc": dict.fromkeys(("pooled", "within_site", "site_only"), interval)})
        )
        return folder

    monkeypatch.setattr(utility, "start_run", run)
    arguments = ["--out", str(tmp_path), "--repeats", "2", "--epsilon", "8", "--lever", "frozen, linear"]
    for _ in range(2):
        assert main([*arguments, "--json", str(tmp_path / "rows.json")]) == 0
    assert ran == ["frozen-linear_8_0", "frozen-linear_8_1"]
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert row["pooled"] == "0.750 [0.650, 0.850]" and row["spread of pooled"] == "0.100"
