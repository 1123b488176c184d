"""The sweep over levers: every cell is a valid run, finished ones are found, and nothing is chosen by its test."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from client.simulated import simulated_manifest
from mmmed.config import RunConfig
from mmmed.data.split import held_out
from simulations.bench import utility
from simulations.bench.utility import LEVERS, Cell, Source, main, validation_table

GENERATED = Source(None, None)
Ran = list[tuple[str, RunConfig]]


@pytest.mark.parametrize("lever", LEVERS)
def test_every_lever_is_a_valid_configuration(lever: str) -> None:
    private, plain = (Cell(lever, epsilon, 0).config(GENERATED) for epsilon in ("1", "none"))
    assert private.privacy.target_epsilon == 1 and not plain.privacy.enabled
    assert len({Cell(name, "1", 0).folder for name in LEVERS}) == len(LEVERS)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    """The cells that were run, by name, and how; in this process, and no run in earnest.

    A learning rate of 3 ranks best on any validation split, and worst on the test split.
    """
    cells: Ran = []

    def run(config: RunConfig, *, folder: Path, engine: str, workers: int) -> Path:
        cells.append((folder.parent.name, config))
        folder.mkdir(parents=True)
        (folder / "model").mkdir()
        good = (config.training.learning_rate == 3) == bool(config.data.table)
        value = (0.7 if good else 0.5) + 0.1 * int(folder.parent.name[-1])
        interval = {"value": value, "low": value - 0.1, "high": value + 0.1}
        (folder / "evaluation.json").write_text(
            json.dumps({"auroc": dict.fromkeys(("pooled", "within_site", "site_only"), interval)})
        )
        return folder

    monkeypatch.setattr(utility, "start_run", run)
    monkeypatch.setattr(utility, "ProcessPoolExecutor", lambda _, mp_context: ThreadPoolExecutor(1))
    return cells


def test_finished_cells_are_found_and_averaged(tmp_path: Path, ran: Ran) -> None:
    arguments = ["--out", str(tmp_path), "--seeds", "2", "--epsilon", "8", "--lever", "frozen, linear"]
    for _ in range(2):
        assert main([*arguments, "--json", str(tmp_path / "rows.json")]) == 0
        assert [name for name, _ in ran] == ["frozen-linear_8_0", "frozen-linear_8_1"]
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert row["pooled"] == "0.750 [0.650, 0.850]" and row["sd"] == "0.071" and row["runs"] == 2
    assert not list(tmp_path.rglob("model"))


def test_without_privacy_there_is_nothing_to_repeat(tmp_path: Path, ran: Ran) -> None:
    main(["--out", str(tmp_path), "--seeds", "3", "--epsilon", "none", "--lever", "  steps"])
    assert [name for name, _ in ran] == ["steps_none_0"]


def test_settings_are_chosen_on_validation_and_scored_on_the_test(
    hospitals: Path, tmp_path: Path, ran: Ran
) -> None:
    arguments = ["--data", str(hospitals), "--out", str(tmp_path), "--lever", "  steps", "--epsilon", "1"]
    choice = ["--choose", "training.learning_rate=2.0,3.0", "--choose-seeds", "1", "--seeds", "2"]
    main([*arguments, *choice, "--json", str(tmp_path / "rows.json")])
    validated, tested = [(2.0, True), (3.0, True)], [(3.0, False), (3.0, False)]
    assert [(one.training.learning_rate, bool(one.data.table)) for _, one in ran] == validated + tested
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert row["settings"] == "learning_rate 3.0" and row["pooled"].startswith("0.550")


def test_nobody_who_is_held_out_is_in_the_validation_table(hospitals: Path, tmp_path: Path) -> None:
    source = Source(None, str(hospitals))
    test = Cell("  steps", "1", 0).config(source)
    manifest = simulated_manifest(test)
    out = held_out(manifest, test.data, test.training.seed)
    tested, trained = (set(manifest.records["patient"][mask]) for mask in (out, ~out))

    validation = Cell("  steps", "1", 0).config(
        Source(None, str(hospitals), validation_table(source, tmp_path))
    )
    others = simulated_manifest(validation)
    patients = set(others.records["patient"])
    assert patients == trained and not patients & tested
    again = held_out(others, validation.data, validation.training.seed)
    assert again.any() and not again.all()
