"""`mmmed privacy ...` on the ledgers of a real run."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from privacy.keys import load_or_create_key
from privacy.ledger import verify_export
from tests.simulations.conftest import small

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def state(mmmed: Command, hospitals: Path, tmp_path: Path) -> Path:
    code, _, err = mmmed(
        *small(hospitals, "federation.rounds=1"), "--out", tmp_path / "run", "--workers", "0"
    )
    assert code == 0, err
    return tmp_path / "run" / "sites" / "harbour"


def test_the_ledger_is_shown_verified_and_exported(mmmed: Command, state: Path, tmp_path: Path) -> None:
    code, out, _ = mmmed("privacy", "ledger", "show", state)
    assert code == 0 and "limit: epsilon 8, delta 0.001" in out
    code, out, _ = mmmed("privacy", "ledger", "verify", state)
    assert code == 0 and "unbroken" in out
    code, _, _ = mmmed("privacy", "ledger", "export", state, tmp_path / "ledger.json")
    entries = json.loads((tmp_path / "ledger.json").read_text())
    verify_export(entries, load_or_create_key(state / "site.key").public_key())

    with sqlite3.connect(state / "ledger.db") as database:
        triggers = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in triggers:
            database.execute(f'DROP TRIGGER "{name}"')
        database.execute("UPDATE entry SET body = replace(body, '\"steps\"', '\"stepz\"') WHERE seq > 1")
    for command in ("show", "verify"):
        code, _, err = mmmed("privacy", "ledger", command, state)
        assert code == 2 and "edited" in err and "Traceback" not in err


def test_a_report_is_written_verified_and_an_edit_is_found(mmmed: Command, state: Path) -> None:
    run = state.parents[1]
    code, out, err = mmmed("privacy", "report", run)
    assert code == 0, err
    report = run / "report" / "privacy.json"
    assert str(report) in out and (run / "report" / "privacy.html").is_file()
    code, out, err = mmmed("privacy", "verify", report)
    assert code == 0, out + err
    text = report.read_text()
    report.write_text(text.replace('"harbour"', '"harbor"', 1))
    assert mmmed("privacy", "verify", report)[0] == 1
    report.write_text(text[: len(text) // 2])
    code, _, err = mmmed("privacy", "verify", report)
    assert code == 2 and "privacy.json" in err and "Traceback" not in err


def test_a_folder_without_a_ledger_is_refused_and_left_alone(mmmed: Command, tmp_path: Path) -> None:
    code, _, err = mmmed("privacy", "ledger", "show", tmp_path)
    assert code == 2 and "ledger.db" in err
    assert list(tmp_path.iterdir()) == []


def test_plan_prints_the_solved_noise_and_writes_it(mmmed: Command, tmp_path: Path) -> None:
    arguments = ["--patients", "300", "--epsilon", "4", "--delta", "1e-3", "--batch-size", "64"]
    code, out, err = mmmed("privacy", "plan", *arguments, "--json", tmp_path / "plan.json")
    assert code == 0, err
    rows = json.loads((tmp_path / "plan.json").read_text())["settings"]
    assert f"{rows[0]['noise_multiplier']:.4f}" in out and all(row["epsilon"] <= 4 for row in rows)
    code, _, err = mmmed("privacy", "plan", *arguments, "--json", tmp_path / "absent" / "plan.json")
    assert code == 2 and "absent" in err and "Traceback" not in err
    code, _, err = mmmed("privacy", "plan", "--patients", "300", "--delta", "0.5")
    assert code == 2 and "1 / patients" in err
