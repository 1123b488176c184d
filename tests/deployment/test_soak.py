"""A short soak; the long one is run by hand (docs/soak.md)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_short_soak_keeps_its_claims(nginx: None, tmp_path: Path) -> None:
    found = tmp_path / "soak.json"
    command = [sys.executable, "-m", "simulations.soak", "--sites", "2", "--json", str(found)]
    short = ["--minutes", "2", "--rounds", "10", "--faults", "15"]
    done = subprocess.run(
        [*command, *short],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert found.exists(), done.stderr
    result = json.loads(found.read_text())
    told = f"{result}\n{done.stdout}\n{done.stderr}"
    assert done.stdout.startswith(f"seed {result['seed']}")
    for claim in (
        "0 lost rounds",
        "0 under-charged steps",
        "every model is an undisturbed run's",
        "nobody got in",
    ):
        assert result["claims"][claim], told
    assert done.returncode == int(not all(result["claims"].values())), told
    assert result["steps_charged"] >= result["steps_seen"] > 0
