"""The report of an early round never passes for that of the whole run, whatever a coordinator says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.accounting import DpSgdEvent
from privacy.report import RunFacts, build_report, render_report, unfinished, verify_report
from privacy.report.build import SCHEMA
from privacy.report.earlier import V3, V4
from tests.privacy.report.conftest import EVENT, State
from tests.privacy.report.test_verify import FACTS, VALIDATOR

Body = dict[str, Any]
ROUNDS = 4
KEYS = {site: Ed25519PrivateKey.generate() for site in ("north", "south")}


def facts(done: int, **changes: Any) -> RunFacts:
    """What an honest coordinator says after so many rounds in which both sites answered."""
    said: dict[str, Any] = {"answered": dict.fromkeys(KEYS, ((1, done),)), "utility": (), "done": done}
    return replace(FACTS, **(said | changes))


def report(statements: Sequence[Body], run: RunFacts, schema: str = SCHEMA) -> Body:
    body: Body = json.loads(json.dumps(build_report(statements, run, schema=schema), allow_nan=False))
    return body


@pytest.fixture(scope="module")
def signed(state_run: State) -> dict[int, list[Body]]:
    """What the sites signed after round 2 and after round 4 of 4, by the round."""
    plans = {"north": (EVENT, 3), "south": (DpSgdEvent(2.0, 0.5, 8), 2)}
    return {
        rounds: [
            state_run(site, event, rounds=rounds, steps=steps, key=KEYS[site])
            for site, (event, steps) in plans.items()
        ]
        for rounds in (2, ROUNDS)
    }


def test_a_whole_run_is_complete_and_an_early_report_is_not(signed: dict[int, list[Body]]) -> None:
    whole, early = report(signed[ROUNDS], facts(ROUNDS)), report(signed[2], facts(2))
    for body in (whole, early):
        assert verify_report(body) == []
        VALIDATOR.validate(body)
    assert whole["summary"]["status"] == "complete" and unfinished(whole) == whole["summary"]["open"] == []
    assert early["summary"]["status"] == "unfinished"
    assert unfinished(early) == early["summary"]["open"] == ["The run is not finished: 2 of 4 rounds done."]


@pytest.mark.parametrize("done", [2, 3, 4])
@pytest.mark.parametrize("answered", [2, 0])
@pytest.mark.parametrize("newest", [(2, 2), (2, 4), (4, 2)])
def test_no_word_of_the_coordinator_makes_an_early_report_one_of_the_whole_run(
    signed: dict[int, list[Body]], done: int, answered: int, newest: tuple[int, int]
) -> None:
    statements = [signed[rounds][number] for number, rounds in enumerate(newest)]
    said = facts(done, answered=dict.fromkeys(KEYS, ((1, answered),)) if answered else {})
    body = report(statements, said)
    assert verify_report(body) == []
    assert body["summary"]["status"] == "unfinished" and unfinished(body)
    stale = [site for site, rounds in zip(KEYS, newest, strict=True) if rounds == 2]
    if max(done, *newest) == ROUNDS:
        assert [sentence.split()[1] for sentence in unfinished(body)] == stale
        assert all("its ledger alone tells" in sentence for sentence in unfinished(body))
    shorter = report(statements, replace(said, rounds=2, done=2))  # as if the run had been asked for two
    assert any("it was asked for rounds 4" in finding for finding in verify_report(shorter))
    earlier = report(statements, replace(said, done=None), V4)  # as if an earlier version had made it
    assert verify_report(earlier) == [] and unfinished(earlier)


def test_older_statements_end_a_run_by_the_steps_of_their_plan_alone(state_run: State) -> None:
    """They do not say how many rounds were asked for, so that the coordinator may say what it likes."""
    run = {"answered": {"north": ((1, 2),)}, "rounds": 2}
    for rounds, ended in ((2, False), (ROUNDS, True)):
        older = [state_run(rounds=rounds, asked=None)]
        now = report(older, facts(2, **run) if not ended else facts(4))
        assert verify_report(now) == ([] if not ended else ["site south: no valid statement"])
        assert (unfinished(now) == []) is ended
    body = json.loads((Path(__file__).parent / "report-of-before-policies.json").read_text())
    assert body["schema"] == V3 and verify_report(body) == [] and "9 of its plan's 12" in unfinished(body)[0]


def test_an_early_report_that_an_earlier_version_called_complete_is_none() -> None:
    body = json.loads((Path(__file__).parent / "report-of-before-rounds-done.json").read_text())
    assert (body["schema"], body["summary"]["status"]) == (V4, "complete")
    VALIDATOR.validate(body)
    assert verify_report(body) == [] and "6 of its plan's 12 steps" in unfinished(body)[0]
    assert "not of a whole run" not in render_report(body)  # as it was made
    for edited in ({**body["run"], "done": 4}, {**body["run"], "done": 2}):
        assert verify_report({**body, "run": edited})


@pytest.mark.parametrize("done", [None, -1, 5, 2.0, True, "4"])
def test_a_report_says_how_many_rounds_are_done(signed: dict[int, list[Body]], done: Any) -> None:
    body = report(signed[2], facts(2))
    assert verify_report({**body, "run": {**body["run"], "done": done}})
    if done is None:
        assert verify_report({**body, "run": {k: v for k, v in body["run"].items() if k != "done"}})


def test_rounds_that_sites_signed_for_count_as_done(signed: dict[int, list[Body]]) -> None:
    body = report(signed[2], facts(1))
    assert body["summary"]["rounds_done"] == 2 and unfinished(body) == [
        "The run is not finished: 2 of 4 rounds done."
    ]


def test_a_run_of_which_nobody_signed_anything_is_not_shown_to_have_ended() -> None:
    for run, expected in (
        (facts(4, answered={}), ["No site has signed a statement: nothing shows how far the run went."]),
        (facts(3, private=False), ["The run is not finished: 3 of 4 rounds done."]),
        (facts(4, private=False), []),  # nothing is claimed of it
    ):
        body = report([], run)
        assert unfinished(body) == expected and body["summary"]["status"] in ("empty", "none")


def test_the_page_says_first_that_the_run_is_not_finished(signed: dict[int, list[Body]]) -> None:
    early, whole = render_report(report(signed[2], facts(2))), render_report(report(signed[4], facts(4)))
    said = early.index("2 of 4 rounds done")
    assert said < early.index("recognises at most") and said < early.index("<h2>")
    assert "not of a whole run" in early[: early.index("</title>")]
    assert "not of a whole run" not in whole and "not finished" not in whole
    claimed = render_report(report(signed[2], facts(4)))
    assert "south" in claimed[: claimed.index("recognises at most")]
