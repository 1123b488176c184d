"""Released counts of held-out patients are listed, recomputed, and part of what bounds a patient in several sites."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import privacy.report
from privacy.accounting import DpSgdEvent, epsilon
from privacy.errors import ReportError
from privacy.ledger import Budget, Ledger, dataset_identity, evaluation_id
from privacy.metrics import BINS, estimate, release_kind
from privacy.metrics.release import edges
from privacy.report import Pooled, build_report, render_report, sign_statement, verify_report
from privacy.report.build import digest
from privacy.report.page import _Plots
from tests.privacy.report.test_verify import FACTS

Body = dict[str, Any]
EVENT = DpSgdEvent(5.0, 1.0, 1)


@pytest.fixture
def evaluated(tmp_path: Path) -> Callable[..., Body]:
    """A signed statement of a site's evaluation."""

    def sign(site: str, run_id: str = FACTS.id, event: DpSgdEvent = EVENT, run: bool = True) -> Body:
        key = Ed25519PrivateKey.generate()
        patients = dataset_identity([f"{site} {i}" for i in range(300)], b"0" * 32)
        with Ledger.open(tmp_path / f"{site}.db", key, limit=Budget(50.0, 1e-3)) as ledger:
            plan = ledger.plan(patients, evaluation_id(run_id), event, 1e-5, 1.0, "evaluation")
            if run:
                ledger.reserve(plan, 3, 1).commit(1)
            signed = sign_statement(ledger, plan, site=site, key=key, metrics_shown=False)
            return json.loads(json.dumps(signed))  # type: ignore[no-any-return]

    return sign


def test_the_report_lists_what_was_released_and_what_it_cost(
    state_run: Callable[..., Body], evaluated: Callable[..., Body]
) -> None:
    facts = replace(FACTS, answered={})
    trained = [state_run("north"), state_run("south")]
    tested = [evaluated("north"), evaluated("south")]
    body = json.loads(json.dumps(build_report(trained, facts, tested)))
    schema = json.loads((Path(privacy.report.__file__).parent / "schema.json").read_text())
    jsonschema.validate(body, schema)
    cost = epsilon([EVENT], 1e-5)
    assert [(row["site"], row["problems"]) for row in body["evaluations"]] == [("north", []), ("south", [])]
    assert body["evaluations"][0]["epsilon"] == pytest.approx(cost, rel=1e-6) and cost == pytest.approx(
        0.73, abs=0.01
    )
    access = {row["access"]: row["covered"] for row in body["data_access"]}
    assert access["metrics on held-out patients"] == "yes"
    without = build_report(trained, facts)["joint"]
    assert body["joint"][0]["epsilon"] == without[0]["epsilon"]  # nobody is trained on and tested at one site
    assert body["joint"][1]["epsilon"] > without[1]["epsilon"]
    assert verify_report(body) == []
    page = render_report(body)
    assert "Counts released of held-out patients" in page


def _tables(patients: int) -> np.ndarray:
    """Counts of a fair model without noise: (1, 2, BINS)."""
    limits = edges(BINS)
    scores = (limits[:-1] + limits[1:]) / 2
    share = np.full(BINS, patients / BINS)
    return np.stack([share * (1 - scores), share * scores])[None]


def test_pooled_results_are_shown_with_their_errors_and_computed_again(
    state_run: Callable[..., Body], evaluated: Callable[..., Body]
) -> None:
    pooled = Pooled(("north", "south"), _tables(3000))
    facts = replace(FACTS, answered={}, pooled=pooled, subject={"predicts": "finding: 0, 1"}, utility=())
    trained, tested = [state_run("north"), state_run("south")], [evaluated("north"), evaluated("south")]
    body = json.loads(json.dumps(build_report(trained, facts, tested), allow_nan=False))
    schema = json.loads((Path(privacy.report.__file__).parent / "schema.json").read_text())
    jsonschema.validate(body, schema)
    assert verify_report(body) == []
    expected = estimate(
        pooled.tables, math.sqrt(2 * 5.0**2)
    )  # of two sites that state a noise multiplier of 5
    results = body["results"]
    assert (results["auroc"], results["low"], results["high"]) == (
        expected.auroc,
        expected.low,
        expected.high,
    )
    page = render_report(body)
    assert f"{expected.low:.3f} to {expected.high:.3f}" in page and "Predicts: finding: 0, 1" in page
    drawn = _Plots(body).utility
    assert drawn is not None and [len(line.points) for line in drawn.lines if not line.dashed] == [1]
    spent = max(site["epsilon_charged"] for site in body["sites"])
    assert drawn.errors == [(spent, expected.low, expected.high)]
    assert drawn.marks[0][:2] == (spent, expected.auroc) and "One point" in page
    for change in (
        lambda b: b["results"].update(auroc=0.99),
        lambda b: b["results"].update(low=0.9),
        lambda b: b.update(results=None),
        lambda b: b["run"]["pooled"]["tables"][0][0].__setitem__(3, 1.0),
        lambda b: b["run"]["pooled"]["sites"].pop(),
        lambda b: b["run"].update(pooled=None),
        lambda b: b["run"].update(pooled={"sites": ["north"], "tables": [[1.0]]}),
    ):
        edited = copy.deepcopy(body)
        change(edited)
        edited["digest"] = digest(edited)
        assert verify_report(edited), change
    for sites in (("north", "west"), (), ("north", "north")):
        with pytest.raises(ReportError, match="pooled results"):
            build_report(trained, replace(facts, pooled=Pooled(sites, _tables(3000))), tested)


def test_results_of_too_few_patients_are_not_told(
    state_run: Callable[..., Body], evaluated: Callable[..., Body]
) -> None:
    facts = replace(FACTS, answered={}, pooled=Pooled(("north",), _tables(100)), utility=())
    body = build_report([state_run("north")], facts, [evaluated("north")])
    assert body["results"]["auroc"] is None and verify_report(body) == []
    page = render_report(body)
    assert "Not told: too few patients" in page and "Not drawn: the results that were released" in page
    silent = build_report([state_run("north")], replace(facts, pooled=None))
    assert "Not drawn: no AUROC on held-out patients has left a site" in render_report(silent)


def test_an_edit_or_an_uncharged_release_is_found(
    state_run: Callable[..., Body], evaluated: Callable[..., Body]
) -> None:
    facts = replace(FACTS, answered={})
    body = json.loads(json.dumps(build_report([state_run("north")], facts, [evaluated("north")])))
    for change in (
        lambda b: b["evaluations"][0].update(epsilon=0.1),
        lambda b: b["evaluations"].clear(),
        lambda b: b["evaluation_statements"].clear(),
        lambda b: b["evaluation_statements"][0].update(epsilon=0.1),
        lambda b: b.update(evaluation_statements=None),
    ):
        edited = copy.deepcopy(body)
        change(edited)
        assert verify_report(edited)
    unpaid = build_report([state_run("north")], facts, [evaluated("other", run=False)])
    assert any("not charged" in finding for finding in verify_report(unpaid))


def test_statements_of_something_else_are_refused(
    state_run: Callable[..., Body], evaluated: Callable[..., Body]
) -> None:
    facts = replace(FACTS, answered={})
    for wrong in (
        [state_run("north")],
        [evaluated("a", run_id="another")],
        [evaluated("b", event=DpSgdEvent(5.0, 0.5, 2))],
        [evaluated("c")] * 2,
    ):
        with pytest.raises(ReportError):
            build_report([], facts, wrong)


def test_results_that_are_no_auroc_are_computed_again_by_their_kind(
    state_run: Callable[..., Body], evaluated: Callable[..., Body]
) -> None:
    kind = release_kind("concordance", 3)
    risk = np.linspace(0.9, 0.1, 400)
    label = 2 * np.clip(((1 - risk) * 4).astype(int), 0, 3) + (np.arange(400) % 2)
    label[label == 7] = 6  # behind the last border no event is seen
    counts = 10 * kind.exact(risk[:, None], label[:, None].astype(float), np.arange(400))
    pooled = Pooled(("north",), counts, "concordance")
    facts = replace(FACTS, answered={}, pooled=pooled, subject={"predicts": "time"}, utility=())
    trained, tested = [state_run("north")], [evaluated("north")]
    body = json.loads(json.dumps(build_report(trained, facts, tested), allow_nan=False))
    schema = json.loads((Path(privacy.report.__file__).parent / "schema.json").read_text())
    jsonschema.validate(body, schema)
    assert verify_report(body) == []
    (score,) = body["results"]["scores"]
    assert score["name"] == "c_index" and 0.9 < score["low"] <= score["value"] <= score["high"] <= 1
    page = render_report(body)
    assert "C-index" in page and "hold no AUROC" in page
    for wrong in (Pooled(("north",), counts, "means"), Pooled(("north",), counts[:, :1], "concordance")):
        with pytest.raises(ReportError, match="of no known form"):
            build_report(trained, replace(facts, pooled=wrong), tested)
