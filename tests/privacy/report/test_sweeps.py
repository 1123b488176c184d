"""What finding the settings cost is in the report, signed, recomputed, and checked."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import privacy.report
from privacy.accounting import DpSgdEvent, SelectionEvent, claimed_epsilon
from privacy.errors import ReportError
from privacy.ledger import Budget, Ledger, dataset_identity
from privacy.report import build_report, render_report, sign_statement, sweep_statements, verify_report
from privacy.report.build import digest
from tests.privacy.report.test_verify import FACTS

Body = dict[str, Any]
TRIALS = SelectionEvent((DpSgdEvent(2.0, 0.05, 100), DpSgdEvent(2.2, 0.1, 50)), 10.0, 1.0)
SCORES = SelectionEvent((DpSgdEvent(8.0, 1.0, 1),), 10.0, 1.0)
ACCOUNTED = replace(FACTS, answered={}, tuning="accounted")


@pytest.fixture
def swept(tmp_path: Path) -> Callable[..., list[Body]]:
    """The two signed statements of a site's sweep."""

    def sign(site: str = "north", name: str = "sweep-1", charge: bool = True) -> list[Body]:
        key, found = Ed25519PrivateKey.generate(), []
        with Ledger.open(tmp_path / f"{site}.db", key, limit=Budget(50.0, 1e-3)) as ledger:
            for run, event in ((name, TRIALS), (f"{name}/evaluation", SCORES)):
                patients = dataset_identity([f"{run} {i}" for i in range(300)], b"0" * 32)
                plan = ledger.plan(patients, run, event, 1e-5, 1.0, "tuning")
                if charge:
                    ledger.reserve(plan, 1, 1)
                found.append(sign_statement(ledger, plan, site=site, key=key, metrics_shown=False))
        return sweep_statements(json.loads(json.dumps({"statements": found})))

    return sign


def test_the_report_states_what_the_sweep_cost(
    state_run: Callable[..., Body], swept: Callable[..., list[Body]]
) -> None:
    body = json.loads(json.dumps(build_report([state_run()], ACCOUNTED, sweeps=swept())))
    jsonschema.validate(body, json.loads((Path(privacy.report.__file__).parent / "schema.json").read_text()))
    costs = [claimed_epsilon([event], 1e-5) for event in (TRIALS, SCORES)]
    assert body["tuning"]["epsilon"] == pytest.approx(max(costs))
    rows = [(row["patients"], row["epsilon"], row["problems"]) for row in body["tuning"]["sweeps"]]
    assert rows == [("trained on", pytest.approx(costs[0]), []), ("held out", pytest.approx(costs[1]), [])]
    assert verify_report(body) == []
    page = render_report(body)
    assert "ε of the whole sweep" in page and "by an epsilon of its own" in page
    keys = {"north": body["statements"][0]["key"]}
    assert any(
        "another key" in finding for finding in verify_report(body, keys)
    )  # the sweep's is another here


def test_a_report_without_sweeps_says_what_it_said(state_run: Callable[..., Body]) -> None:
    for tuning, cost in (("none", 0), ("public", 0), ("unknown", None)):
        body = build_report([state_run()], replace(FACTS, answered={}, tuning=tuning))
        assert body["tuning"] == {"method": tuning, "epsilon": cost, "sweeps": []}


def test_an_edited_or_half_told_sweep_is_found(
    state_run: Callable[..., Body], swept: Callable[..., list[Body]]
) -> None:
    both, run = swept(), state_run()
    body = json.loads(json.dumps(build_report([run], ACCOUNTED, sweeps=both)))
    edits: list[Callable[[Body], object]] = [
        lambda it: it["tuning"].update(epsilon=0.1),
        lambda it: it["tuning"]["sweeps"].pop(),
        lambda it: it["sweep_statements"][0]["event"].update(mean=1.0),
        lambda it: it["sweep_statements"].pop(),
        lambda it: it["sweep_statements"].clear(),
        lambda it: it["run"].update(tuning="none"),
        lambda it: it.pop("sweep_statements"),
    ]
    for edit in edits:
        edited = copy.deepcopy(body)
        edit(edited)
        edited["digest"] = digest(edited)
        assert verify_report(edited)
    for wrong, message in (
        ([both[0]], "two statements"),
        ([*both, both[0]], "two statements"),
        ([run], "not on a sweep"),
    ):
        with pytest.raises(ReportError, match=message):
            build_report([run], ACCOUNTED, sweeps=wrong)
    with pytest.raises(ReportError, match="accounted"):
        build_report([run], FACTS, sweeps=both)
    with pytest.raises(ReportError, match="accounted"):
        build_report([run], ACCOUNTED)
    with pytest.raises(ReportError, match="on a sweep"):
        build_report(swept("east", FACTS.id)[:1], replace(FACTS, answered={}))


def test_a_sweep_that_was_not_charged_is_told(
    state_run: Callable[..., Body], swept: Callable[..., list[Body]]
) -> None:
    body = build_report([state_run()], ACCOUNTED, sweeps=swept(charge=False))
    assert any("not charged whole" in finding for finding in verify_report(body))


@pytest.mark.parametrize("value", [None, 3, [], {}, {"statements": 3}, {"statements": [3]}])
def test_another_file_is_refused(value: Any) -> None:
    with pytest.raises(ReportError, match=r"sweep\.json"):
        sweep_statements(value)
