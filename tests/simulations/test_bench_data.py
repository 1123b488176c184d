"""The benchmark of the way from files to tensors measures what it says."""

from __future__ import annotations

import json
from pathlib import Path

from simulations.bench.__main__ import main


def test_cache_is_cheaper_than_decoding_and_rows_are_written(tmp_path: Path) -> None:
    options = ["--films", "3", "--studies", "60", "--repeats", "1", "--json", str(tmp_path / "rows.json")]
    assert main(["data", *options]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    epoch = {row["system"]: row for row in rows if row["case"].startswith("epoch")}
    assert epoch["mmmed, decoding"]["ratio"] >= 20
    assert epoch["pydicom + MONAI, decoding"]["cpu_s"] > epoch["mmmed, decoding"]["cpu_s"]
    share = next(row["ratio"] for row in rows if row["system"] == "batch from the cache")
    assert share < 0.05
    memory = [row for row in rows if row["case"] == "memory"]
    assert [row["system"] for row in memory] == ["2 studies", "12 studies", "60 studies"]
