"""`mmmed privacy ...` on the ledgers of a real run."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import client.audit
from privacy.keys import load_or_create_key
from privacy.ledger import verify_export
from tests.simulations.conftest import SMALL, small

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
    assert code == 0 and "limit: epsilon 8, delta 0.0001" in out
    code, out, _ = mmmed("privacy", "ledger", "verify", state)
    assert code == 0 and "unbroken" in out
    head = out.split()[-1]
    exported = tmp_path / "ledger.json"
    code, _, _ = mmmed("privacy", "ledger", "export", state, exported)
    key = load_or_create_key(state / "site.key").public_key()
    verify_export(json.loads(exported.read_text()), key)

    public = key.public_bytes_raw().hex()
    assert public in mmmed("privacy", "ledger", "show", state)[1]
    for where in ((state,), (exported, "--key", public)):
        code, out, err = mmmed("privacy", "ledger", "verify", *where, "--head", head)
        assert code == 0 and "unbroken" in out, err
        for noted, why in (
            (f"{int(head.partition(':')[0]) + 1}:{'0' * 64}", "does not contain entry"),
            (head[:-1] + ("0" if head[-1] != "0" else "1"), "does not contain entry"),
            ("newest", "a colon and 64 hexadecimal digits"),
        ):
            code, _, err = mmmed("privacy", "ledger", "verify", *where, "--head", noted)
            assert code == 2 and why in err and "Traceback" not in err
    for wrong, why in (("f" * 62, "64 hexadecimal digits"), (("1" * 64), "not signed by this site's key")):
        code, _, err = mmmed("privacy", "ledger", "verify", exported, "--key", wrong)
        assert code == 2 and why in err and "Traceback" not in err
    (tmp_path / "site.toml").write_text('version = 1\nname = "harbour"\nstate = "run/sites/harbour"')
    assert mmmed("privacy", "ledger", "verify", tmp_path)[0] == 0  # the site's folder does as well

    with sqlite3.connect(state / "ledger.db") as database:
        triggers = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in triggers:
            database.execute(f'DROP TRIGGER "{name}"')
        database.execute("UPDATE entry SET body = replace(body, '\"steps\"', '\"stepz\"') WHERE seq > 1")
    for command in ("show", "verify"):
        code, _, err = mmmed("privacy", "ledger", command, state)
        assert code == 2 and "edited" in err and "Traceback" not in err


def test_a_report_is_written_verified_and_an_edit_is_found(
    mmmed: Command, state: Path, tmp_path: Path
) -> None:
    run = state.parents[1]
    code, out, err = mmmed("privacy", "report", run)
    assert code == 0, err
    report = run / "report" / "privacy.json"
    assert str(report) in out and (run / "report" / "privacy.html").is_file()
    code, out, err = mmmed("privacy", "verify", report)
    assert code == 0, out + err
    known = tmp_path / "keys.json"
    known.write_text('{"harbour": "00"}')
    code, out, _ = mmmed("privacy", "verify", report, "--keys", known)
    assert code == 1 and len(out.splitlines()) == len(set(out.splitlines())) == 4
    for text in ("[1]", '{"harbour": 1}', "no json"):
        known.write_text(text)
        code, _, err = mmmed("privacy", "verify", report, "--keys", known)
        assert code == 2 and "keys.json" in err and "Traceback" not in err
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
    assert "above a tenth of 1 / patients, 0.00033" in " ".join(out.split())
    table = out[: out.index("As asked:")]
    assert all(word in table for word in ("records", "epsilon", "passes", "signal /")) and "…" not in table
    assert max(map(len, table.splitlines())) <= 80
    code, _, err = mmmed("privacy", "plan", *arguments, "--json", tmp_path / "absent" / "plan.json")
    assert code == 2 and "absent" in err and "Traceback" not in err
    code, _, err = mmmed("privacy", "plan", "--patients", "300", "--delta", "0.5")
    assert code == 2 and "1 / patients" in err


def test_plan_draws_lists_and_asks_the_ledger(mmmed: Command, state: Path, tmp_path: Path) -> None:
    table, page = tmp_path / "plan.csv", tmp_path / "plan.html"
    arguments = ["--patients", "300", "--batch-size", "64", "--csv", table, "--html", page, "--ledger", state]
    arguments.append("--model")
    code, out, err = mmmed("privacy", "plan", *arguments, *(f"--set={text}" for text in SMALL[:4]))
    assert code == 0, err
    assert (
        "refuses the run as asked" in out or "no run of so many steps" in out
    )  # the run has used its budget
    assert "fusion-head" in out and "too large" in out
    assert table.read_text().count("\n") > 40 and "False" in table.read_text()
    text = page.read_text()
    assert "Plotly.newPlot" in text and 'src="http' not in text  # the library is inside
    assert (
        "default-src 'none'" in text and '"modeBarButtonsToRemove": ["sendChartToCloud"' in text
    )  # nothing leaves
    assert "ledger," in out and "of 8" in out and "…" not in out and "a round's update of" in out
    code, _, err = mmmed("privacy", "plan", "--patients", "300", "--ledger", tmp_path)
    assert code == 2 and "ledger.db" in err and "Traceback" not in err


def test_a_run_is_audited_and_its_report_shows_the_result(
    mmmed: Command, state: Path, tmp_path: Path
) -> None:
    run = state.parents[1]
    code, out, err = mmmed("privacy", "audit", run, "--quick", "--site", "harbour")
    assert code == 0, out + err
    body = json.loads((run / "report" / "audit.json").read_text())
    assert body["passed"] and body["quick"]
    assert mmmed("privacy", "report", run)[0] == 0
    report = json.loads((run / "report" / "privacy.json").read_text())
    assert "harbour" in report["audits"][0]["sites"]
    assert mmmed("privacy", "verify", run / "report" / "privacy.json")[0] == 0
    code, _, err = mmmed("privacy", "audit", run, "--site", "nowhere")
    assert code == 2 and "harbour" in err
    (run / "report" / "audit.json").write_text("{}")
    code, _, err = mmmed("privacy", "report", run)
    assert code == 2 and "mmmed privacy audit" in err and "Traceback" not in err


def test_an_audit_that_finds_a_fault_exits_with_1(
    mmmed: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    honest = client.audit.private_step

    def quieter(*arguments: Any, **named: Any) -> Any:
        step = honest(*arguments, **named)
        step.optimizer.noise_multiplier *= 0.1
        return step

    monkeypatch.setattr(client.audit, "private_step", quieter)
    result = tmp_path / "audit.json"
    settings = [f"--set={text}" for text in SMALL]
    code, out, _ = mmmed("privacy", "audit", "--quick", "--json", result, *settings, "--patients", "40")
    assert code == 1 and "VIOLATION" in out and "C1" in json.loads(result.read_text())["violations"]
    code, _, err = mmmed("privacy", "audit", "--set=privacy.enabled=false")
    assert code == 2 and "nothing to audit" in err
