"""The benchmark of the way from files to tensors runs through and writes what it measured."""

from __future__ import annotations

import json
from pathlib import Path

from simulations.bench.__main__ import main


def test_rows_are_written_for_every_case(tmp_path: Path) -> None:
    options = [
        "--films",
        "3",
        "--studies",
        "60",
        "--headers",
        "4",
        "--repeats",
        "1",
        "--json",
        str(tmp_path / "rows.json"),
    ]
    assert main(["data", *options]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    systems = [row["system"] for row in rows]
    assert systems[:3] == ["pydicom + MONAI, decoding", "mmmed, decoding", "mmmed, opening the cache"]
    assert systems[3:5] == ["pydicom, stop before pixels", "mmmed, scan"]
    assert systems[5:8] == ["forward and backward", "input, first epoch", "input, later epochs"]
    assert systems[-3:] == ["2 studies", "12 studies", "60 studies"]
    assert all(row["cpu_s"] >= 0 and row["ratio"] > 0 and row["anonymous_mb"] > 0 for row in rows)
    assert rows[2]["ratio"] == 1 and rows[3]["ratio"] == 1
