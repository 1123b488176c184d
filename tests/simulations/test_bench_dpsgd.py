"""The benchmarks of private steps and of accounting run, continue, tell what they leave out, and draw."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.image
import pytest

from privacy.accounting import DpSgdEvent
from simulations.bench import accounting, dpsgd

SMALL = ["--case", "fusion, frozen encoders", "--batch", "4", "--size", "32", "--repeats", "1"]


def test_steps_are_measured_drawn_and_not_measured_twice(tmp_path: Path) -> None:
    rows_file, picture = tmp_path / "rows.json", tmp_path / "plots" / "steps.png"
    assert dpsgd.main([*SMALL, "--json", str(rows_file)]) == 0
    rows = json.loads(rows_file.read_text())["rows"]
    assert [row["system"] for row in rows] == list(dpsgd.SYSTEMS)
    by_system = {row["system"]: row for row in rows}
    assert by_system["ordinary"]["ratio"] == 1.0
    assert by_system["ghost"]["note"] == "refused"  # a table is looked up several times
    for system in ("bookkeeping", "hooks", "functorch"):
        assert by_system[system]["cpu_s"] > 0
        assert by_system[system]["peak_mb"] > 0
    rows[0]["cpu_s"] = 123.0
    rows_file.write_text(json.dumps({"rows": rows}))
    assert dpsgd.main([*SMALL, "--json", str(rows_file), "--plot", str(picture)]) == 0
    assert json.loads(rows_file.read_text())["rows"] == rows
    drawn = matplotlib.image.imread(picture)
    assert drawn.shape[1] > 1000
    assert (
        len({tuple(pixel) for pixel in drawn[::4, ::4, :3].reshape(-1, 3)}) > 4
    )  # axes and bars of three systems


def test_what_needs_too_much_memory_is_left_out_and_named(tmp_path: Path) -> None:
    rows_file = tmp_path / "rows.json"
    large = ["--case", "ResNet18", "--batch", "2", "--size", "32", "--repeats", "1", "--memory", "20"]
    assert dpsgd.main([*large, "--system", "bookkeeping", "--json", str(rows_file)]) == 0
    notes = {row["system"]: row["note"] for row in json.loads(rows_file.read_text())["rows"]}
    assert notes == {"ordinary": "does not fit", "bookkeeping": "does not fit"}


def test_accounting_is_timed_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = DpSgdEvent(2.0, 0.1, 5), DpSgdEvent(3.0, 0.1, 5)
    monkeypatch.setattr(accounting, "CASES", {"alone": ([first], []), "one more": ([first, second], [first])})
    rows_file = tmp_path / "rows.json"
    assert accounting.main(["--repeats", "1", "--check", "--json", str(rows_file)]) == 0
    alone, more = json.loads(rows_file.read_text())["rows"]
    assert 0 < alone["epsilon"] < more["epsilon"] < more["rdp"]
    for row in (alone, more):
        assert row["cpu_s"] > 0
        assert 0 <= row["error"] < 0.01
        assert row["prv"] == pytest.approx(row["epsilon"], abs=0.02)
