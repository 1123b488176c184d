from __future__ import annotations

import copy
import json
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting import DpSgdEvent, SelectionEvent, epsilon, trade_off
from privacy.attack import AttackResult, Rate
from privacy.audit.result import AuditResult, Bound, Check
from privacy.errors import ReportError
from privacy.ledger import evaluation_id
from privacy.report import Asked, Pooled, RunFacts, build_report, render_report, verify_report
from privacy.report.build import digest
from privacy.report.earlier import V3
from privacy.report.numbers import COURSE_POINTS, course, joint
from tests.privacy.report.conftest import DELTA, EVENT, RUN, State
from tests.privacy.report.test_statement import leaves

OTHER = DpSgdEvent(2.0, 0.5, 6)
ANSWERED = {"north": ((1, 3),), "south": ((1, 3),)}
FACTS = RunFacts(
    RUN,
    True,
    10.0,
    4,
    ANSWERED,
    "2026-01-01T00:00:00+00:00",
    "unknown",
    {"mmmed": "1"},
    ((1, 0.5), (3, 0.75)),
    done=3,
)
VALIDATOR = jsonschema.Draft202012Validator(
    json.loads(resources.files("privacy.report").joinpath("schema.json").read_text())
)
Body = dict[str, Any]


@pytest.fixture(scope="module")
def statements(state_run: State) -> list[Body]:
    return [state_run("north"), state_run("south", OTHER, rounds=3, steps=2)]


@pytest.fixture(scope="module")
def body(statements: list[Body]) -> Body:
    read: Body = json.loads(json.dumps(build_report(statements, FACTS), allow_nan=False))
    return read


def put(body: Body, path: tuple[Any, ...], value: Any) -> Body:
    """A copy with another value at the path."""
    edited = copy.deepcopy(body)
    parent: Any = edited
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return edited


def get(body: Body, path: tuple[Any, ...]) -> Any:
    found: Any = body
    for key in path:
        found = found[key]
    return found


def edits(value: Any) -> list[Any]:
    """What somebody might put in a leaf's place."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, float(value), *([0, -value] if value else ())]
    if isinstance(value, float):
        return [value * 1.01, value * 1.001, 0.0, -value] if value else [0.01]
    return ["x"] if value in (None, [], {}, "") else [f"{value}0", ""]


def listed(body: Body, path: tuple[Any, ...]) -> bool:
    """Whether the report says itself that nothing checks what is at the path."""
    names = [str(key) for key in path]
    return any("/".join(names[: i + 1]) in body["not_checked"] for i in range(len(names)))


def renewed(body: Body) -> Body:
    """As an attacker sends it: under the digest of what it now holds."""
    return body | {"digest": digest(body)}


def test_an_honest_report_verifies_and_fits_its_schema(body: Body, statements: list[Body]) -> None:
    assert verify_report(body) == []
    jsonschema.Draft202012Validator.check_schema(VALIDATOR.schema)
    VALIDATOR.validate(body)
    assert verify_report(body, {s["site"]: s["key"] for s in statements}) == []


def test_a_report_of_before_statements_named_their_policy_still_verifies() -> None:
    body = json.loads((Path(__file__).parent / "report-of-before-policies.json").read_text())
    assert verify_report(body) == []
    VALIDATOR.validate(body)
    assert "No statement names a policy" in render_report(body)
    body["statements"][0]["policies"] = []
    assert verify_report(body | {"digest": digest(body)})
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(body)


@pytest.fixture(scope="module")
def rich(statements: list[Body], state_run: State) -> Body:
    """A report with every part there is: results, audit, attack, utility; each float of it is not a whole number."""
    shown = [state_run("north", metrics_shown=True), state_run("south", OTHER, steps=2, metrics_shown=True)]
    once = {"rounds": 1, "steps": 1, "asked": None}
    tested = [state_run("north", DpSgdEvent(5.0, 1.0, 1), run_id=evaluation_id(RUN), **once)]
    sweep, scores = (SelectionEvent((DpSgdEvent(8.0, q, 9),), 10.0, 1.0) for q in (0.5, 1.0))
    swept = [
        state_run("north", event, run_id=name, **once)
        for event, name in ((sweep, "sweep"), (scores, evaluation_id("sweep")))
    ]
    bins = np.linspace(50.5, 250.5, 10)
    pooled = Pooled(("north",), np.stack([bins[::-1], bins])[None])
    facts = replace(FACTS, subject={"predicts": "finding"}, pooled=pooled, tuning="accounted")
    bounds = dict(map(tuple, build_report(shown, FACTS)["risk"]["true_positive_rate"]))
    rates = tuple(Rate(at, 1, 5, bounds[at], False) for at in (0.01, 0.1))
    attack = AttackResult(4, 100, 50, 0.5, rates).to_json()
    built = build_report(shown, facts, tested, [audited(EVENT)], attack, swept)
    return json.loads(json.dumps(built, allow_nan=False))  # type: ignore[no-any-return]


def test_no_leaf_can_be_edited(rich: Body) -> None:
    paths = leaves(rich)
    assert len(paths) > 600
    for path in paths:  # an edit that leaves the digest as it is
        edited = put(rich, path, edits(get(rich, path))[0])
        assert path == ("digest",) or digest(edited) != rich["digest"], path
    assert verify_report(put(rich, ("digest",), "0" * 64)) and verify_report(
        put(rich, ("run", "generated"), "x")
    )


def test_an_edit_under_a_new_digest_is_found_or_said_to_be_unchecked(rich: Body) -> None:
    assert verify_report(rich) == []
    unnoticed = set()
    for path in leaves(rich):
        for value in edits(get(rich, path)):
            edited = put(rich, path, value)
            if path != ("digest",) and not verify_report(renewed(edited)):
                unnoticed.add((path, value))
    assert {path for path, _ in unnoticed if not listed(rich, path)} == set()
    assert unnoticed  # the list is not empty talk: a few of these can be edited


def test_nothing_can_be_dropped_unless_it_is_said_to_be_unchecked(rich: Body) -> None:
    inner = {path[:n] for path in leaves(rich) for n in range(1, len(path) + 1)}
    for path in sorted(inner, key=str):
        edited = copy.deepcopy(rich)
        del get(edited, path[:-1])[path[-1]]
        if path != ("digest",) and not verify_report(renewed(edited)):
            assert listed(rich, path), path


def test_target_and_rounds_are_bound_by_what_the_sites_signed(body: Body, state_run: State) -> None:
    assert not {"run/target_epsilon", "run/rounds"} & set(body["not_checked"])
    for part, value, said in (("target_epsilon", 10.1, "10.1"), ("rounds", 5, "5")):
        (north, south) = verify_report(renewed(put(body, ("run", part), value)))[-2:]
        assert "it was asked for" in north and said in south
    silent = build_report([state_run(asked=None)], replace(FACTS, answered={}))
    assert {"run/target_epsilon", "run/rounds"} <= set(silent["not_checked"]) and verify_report(silent) == []
    assert {"run/id", "run/private"} <= set(build_report([], replace(FACTS, answered={}))["not_checked"])


def test_a_report_of_now_does_not_pass_as_one_of_before(body: Body) -> None:
    assert "newer than it" in verify_report(renewed(put(body, ("schema",), V3)))[0]


def test_a_site_that_was_dropped_is_found_by_its_key(statements: list[Body]) -> None:
    keys = {each["site"]: each["key"] for each in statements}
    dropped = build_report(statements[:1], replace(FACTS, answered={"north": ANSWERED["north"]}))
    assert verify_report(dropped) == []
    assert verify_report(dropped, keys) == [
        "site south: its key is known, but the report has no statement of it"
    ]
    nothing = build_report([], replace(FACTS, private=False))
    assert len(verify_report(nothing, keys)) == 2


def test_what_a_sampling_rate_follows_from_is_said_first(state_run: State) -> None:
    stated = Asked(10.0, 4, 40, stated=True)
    facts = replace(FACTS, answered={})
    mixed = build_report([state_run("north", asked=stated), state_run("south")], facts)
    policy = build_report([state_run("north", asked=stated)], facts)
    VALIDATOR.validate(json.loads(json.dumps(mixed)))
    assert "At south the sampling rate was derived" in mixed["summary"]["condition"]
    page = render_report(mixed)
    assert page.index("epsilon holds given that class") < page.index("If a patient is in several sites")
    assert "40, stated" in page and "32, derived" in page
    assert any("size class" in item for item in mixed["not_covered"])
    assert "derived from" in policy["summary"]["condition"] and "nothing" in policy["summary"]["condition"]
    assert not any("size class" in item for item in policy["not_covered"])
    assert "policy states" in policy["definition"]["delta"]


def test_a_large_delta_is_warned_of_and_no_finding(state_run: State) -> None:
    facts = replace(FACTS, answered={})
    few, many = (
        build_report([state_run(asked=Asked(10.0, 4, patients, stated=True))], facts)
        for patients in (100, 101)
    )
    assert few["sites"][0]["warnings"] == [] and verify_report(few) == verify_report(many) == []
    assert "above a tenth of 1 / its number of patients" in many["sites"][0]["warnings"][0]
    assert "above a tenth" in render_report(many) and "above a tenth" not in render_report(few)


def test_the_page_marks_what_is_not_checked(rich: Body) -> None:
    page = render_report(rich)
    assert all(f"<code>{path}</code>" in page for path in rich["not_checked"])
    # Id, rounds and target are signed for here; done, generated, subject, utility, pooled, audit, attack, tuning,
    # software, answered.
    assert page.count(">†</sup>") == 10
    unsigned = render_report(build_report([], replace(FACTS, private=False, answered={}, utility=())))
    assert unsigned.count(">†</sup>") == 6  # done, id, rounds, generated, software, answered


def test_a_part_cannot_be_removed_or_added(body: Body) -> None:
    for name in body:
        edited = {key: value for key, value in body.items() if key != name}
        if name != "digest":
            edited["digest"] = digest(edited)
        assert verify_report(edited), name
    edited = body | {"certificate": "yes"}
    assert any("certificate" in finding for finding in verify_report(edited | {"digest": digest(edited)}))
    fewer = {**body, "statements": body["statements"][:1]}
    assert verify_report(fewer | {"digest": digest(fewer)})


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_garbage_anywhere_is_a_finding_and_no_crash(body: Body, data: st.DataObject) -> None:
    garbage = st.sampled_from([None, [], {}, "", -1, 1e308, [1], {"a": []}, True, 10**30])
    inputs = [path for path in leaves(body) if path[0] in ("run", "statements")]
    path = data.draw(st.sampled_from(inputs))
    path = path[: data.draw(st.integers(1, len(path)))]
    edited = put(body, path, data.draw(garbage))
    assert verify_report(edited) or edited == body
    assert verify_report(data.draw(garbage))


def test_another_key_is_found_only_by_who_knows_the_keys(state_run: State, body: Body) -> None:
    known = {s["site"]: s["key"] for s in body["statements"]}
    forged = [state_run("north"), body["statements"][1]]  # the forger signs with a key of their own
    report = build_report(forged, FACTS)
    assert verify_report(report) == []
    assert verify_report(report, known) == ["site north: signed with another key than the known one"]
    assert verify_report(body, {"north": known["north"]}) == [
        "site south: its key is not among the known keys"
    ]


def test_what_is_not_covered_is_said(state_run: State, statements: list[Body]) -> None:
    missing = build_report(statements[:1], FACTS)
    assert missing["summary"]["status"] == "incomplete" and missing["sites_without_statement"] == ["south"]
    assert verify_report(missing) == ["site south: no valid statement"]
    unpaid = build_report(statements, replace(FACTS, answered={**ANSWERED, "south": ((1, 4),)}))
    assert unpaid["summary"]["status"] == "incomplete"
    assert "1 updates were received but not charged" in verify_report(unpaid)[0]
    beyond = build_report(statements, replace(FACTS, target_epsilon=1.0))
    assert "above the run's target" in verify_report(beyond)[0]


def test_a_report_is_of_one_run_and_of_different_sites(state_run: State, statements: list[Body]) -> None:
    with pytest.raises(ReportError, match="of run run-1"):
        build_report(statements, replace(FACTS, id="another"))
    with pytest.raises(ReportError, match="same site"):
        build_report([statements[0], state_run("north")], FACTS)
    key = Ed25519PrivateKey.generate()
    with pytest.raises(ReportError, match="same key"):
        build_report([state_run("north", key=key), state_run("south", key=key)], FACTS)
    with pytest.raises(ReportError, match="without privacy"):
        build_report(statements, replace(FACTS, private=False))


def test_a_run_without_privacy_or_answers_claims_nothing() -> None:
    for facts, status in ((replace(FACTS, private=False), "none"), (replace(FACTS, answered={}), "empty")):
        body = build_report([], facts)
        VALIDATOR.validate(body)
        assert body["summary"]["status"] == status and body["summary"]["epsilon"] is None
        assert body["risk"] is None and body["joint"] == [] and verify_report(body) == []


def test_the_numbers_are_those_of_the_events(body: Body) -> None:
    north, south = body["sites"]
    assert north["epsilon_planned"] == epsilon([EVENT], DELTA)
    assert north["epsilon_charged"] == epsilon([replace(EVENT, steps=9)], DELTA)
    assert north["course"] == [[n, epsilon([replace(EVENT, steps=3 * n)], DELTA)] for n in (1, 2, 3)]
    assert south["course"][-1] == [3, south["epsilon_charged"]]
    assert body["summary"]["epsilon"] == max(north["epsilon_planned"], south["epsilon_planned"])
    worst = max(trade_off([event]).true_positive_rate(0.01) for event in (EVENT, OTHER))
    assert dict(map(tuple, body["risk"]["true_positive_rate"]))[0.01] == worst
    one, both = body["joint"]
    assert (one["sites"], both["sites"]) == (1, 2)
    assert both["epsilon"] == epsilon([EVENT, OTHER], DELTA) > one["epsilon"]


def test_the_course_of_a_long_run_is_thinned_and_ends_where_it_ended() -> None:
    long = course(replace(EVENT, steps=4000), ((1, 500, 2), (700, 1000, 2)), 1000, DELTA)
    assert len(long) <= COURSE_POINTS + 1
    assert long[-1] == [1000, epsilon([replace(EVENT, steps=2 * 801)], DELTA)]
    assert [n for n, _ in long] == sorted({n for n, _ in long}) and long[0][0] < 10
    shared = {n for n, _ in course(EVENT, ((1, 1000, 2),), 1000, DELTA)} & {n for n, _ in long}
    assert len(shared) >= COURSE_POINTS // 2
    assert [n for n, _ in course(EVENT, ((1, 2, 3), (5, 5, 3)), 12, DELTA)] == [1, 2, 5]


@pytest.mark.parametrize(
    "plans",
    [
        [DpSgdEvent(1.5, 0.25, 12), DpSgdEvent(1.5, 0.25, 8), OTHER, DpSgdEvent(3.0, 0.125, 30)],
        [EVENT, DpSgdEvent(9.0, 0.25, 2), EVENT, DpSgdEvent(8.0, 0.5, 2)],  # the worst two are alike
    ],
)
def test_the_pair_of_sites_is_the_worst_one(plans: list[DpSgdEvent]) -> None:
    pairs = [[a, b] for i, a in enumerate(plans) for b in plans[i + 1 :]]
    lines = {line["sites"]: line for line in joint(plans, DELTA)}
    assert lines[2]["epsilon"] == pytest.approx(max(epsilon(pair, DELTA) for pair in pairs), abs=1e-6)
    rates = dict(map(tuple, lines[2]["true_positive_rate"]))
    assert rates[0.01] == pytest.approx(max(trade_off(p).true_positive_rate(0.01) for p in pairs), abs=1e-6)
    assert lines[4]["epsilon"] == pytest.approx(epsilon(plans, DELTA), abs=1e-6)
    assert lines[1]["epsilon"] == max(epsilon([plan], DELTA) for plan in plans)


def test_shown_metrics_are_not_called_covered(state_run: State) -> None:
    shown = build_report([state_run("north", metrics_shown=True)], replace(FACTS, answered={}))
    row = next(row for row in shown["data_access"] if "metrics" in row["access"])
    assert row["covered"] == "no" and "north" in row["how"]


def audited(event: DpSgdEvent, p_value: float = 0.5) -> Body:
    """What `mmmed privacy audit` would have written."""
    checks = (Check("C1", "noise", "found", p_value),)
    return AuditResult(event, DELTA, 10, True, 400, checks, (Bound("E3", "steps", 1.0, 2.0, 12),)).to_json()


def test_an_audit_is_shown_for_the_sites_whose_mechanism_it_tested(statements: list[Body]) -> None:
    body = json.loads(json.dumps(build_report(statements, FACTS, (), [audited(EVENT)])))
    VALIDATOR.validate(body)
    assert verify_report(body) == [] and body["audits"][0]["sites"] == ["north"]
    (row,) = [row for row in body["checklist"] if "implementation" in row["item"]]
    assert row["answer"] == "tested" and "north" in row["where"]
    page = render_report(body)
    assert "No violation was found" in page and "mechanism of" in page
    foreign = build_report(statements, FACTS, (), [audited(DpSgdEvent(3.0, 0.5, 7))])
    assert foreign["audits"][0]["sites"] == [] and "no site of this run" in render_report(foreign)
    with pytest.raises(ReportError, match="audit"):
        build_report(statements, FACTS, (), [{**audited(EVENT), "passed": False}])


def test_a_failed_audit_is_said_first_and_fails_the_check(statements: list[Body]) -> None:
    body = json.loads(json.dumps(build_report(statements, FACTS, (), [audited(EVENT, 0.0)])))
    VALIDATOR.validate(body)
    assert any("violation" in finding for finding in verify_report(body))
    page = render_report(body)
    assert page.index("does not do what is claimed") < page.index("falsely accuses")
    hidden = put(body, ("audits", 0, "result", "checks", 0, "p_value"), 0.5)
    assert verify_report(hidden | {"digest": digest(hidden)})


def test_an_attack_is_shown_of_public_data_and_of_this_run_only(state_run: State) -> None:
    shown = [state_run("north", metrics_shown=True), state_run("south", metrics_shown=True)]
    curve = trade_off([EVENT])
    rates = tuple(Rate(at, 1, 5, curve.true_positive_rate(at), False) for at in (0.01, 0.1))
    attack = AttackResult(4, 100, 50, 0.5, rates).to_json()
    body = json.loads(json.dumps(build_report(shown, FACTS, (), [], attack)))
    VALIDATOR.validate(body)
    assert verify_report(body) == [] and "no attacker can exceed" in render_report(body)
    with pytest.raises(ReportError, match="how many patients"):
        build_report([state_run("north"), state_run("south")], FACTS, (), [], attack)
    elsewhere = AttackResult(4, 100, 50, 0.5, (Rate(0.01, 1, 5, 0.9, False),)).to_json()
    with pytest.raises(ReportError, match="another run"):
        build_report(shown, FACTS, (), [], elsewhere)


def test_utility_stands_beside_the_epsilon_of_the_same_round(body: Body) -> None:
    worst = {n: max(dict(map(tuple, site["course"]))[n] for site in body["sites"]) for n in (1, 3)}
    assert body["utility"] == [[worst[1], 0.5, 1], [worst[3], 0.75, 3]]
    assert "Utility against epsilon" in render_report(body)
