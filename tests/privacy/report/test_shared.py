"""A report on sites that share the noise of one sum: what is left of it if some of them work together."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.accounting import DpSgdEvent, epsilon
from privacy.errors import ReportError
from privacy.report import (
    RunFacts,
    Shared,
    build_report,
    read_statement,
    render_report,
    unfinished,
    verify_report,
)
from privacy.report.statement import seal
from privacy.secure_sum import Terms
from tests.privacy.report.conftest import ASKED, DELTA, EVENT, State
from tests.privacy.report.test_verify import FACTS, VALIDATOR

SITES = ("east", "north", "south", "west")
SHARED = Shared(sites=4, honest=2, least_cohort=3, step=4)
STEP_BY_STEP = replace(ASKED, patients=None)


def facts(**changes: Any) -> RunFacts:
    whole: dict[str, Any] = {"answered": dict.fromkeys(SITES, ((1, 4),)), "utility": (), "done": 4}
    return replace(FACTS, **(whole | changes))


def statements(state: State, shared: Shared = SHARED, **changes: Any) -> list[dict[str, Any]]:
    values: dict[str, Any] = {
        "rounds": 5,
        "steps": 1,
        "asked": STEP_BY_STEP,
        "shared": shared,
    }  # a step asked twice
    return [state(site, **(values | changes)) for site in SITES]


@pytest.fixture(scope="module")
def body(state_run: State) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(
        json.dumps(build_report(statements(state_run), facts()), allow_nan=False)
    )
    return made


def test_the_row_over_colluders_is_computed_from_the_noise_that_is_left(body: dict[str, Any]) -> None:
    rows = dict(body["shared"]["by_colluders"])
    assert list(rows) == [0, 1, 2]  # of three sites in the smallest sum, the site itself is no colluder
    for colluders, left in ((0, 3), (1, 2), (2, 1)):
        sigma = EVENT.noise_multiplier * (left / SHARED.honest) ** 0.5
        wanted = epsilon([DpSgdEvent(sigma, EVENT.sampling_rate, EVENT.steps)], DELTA)
        assert rows[colluders] == pytest.approx(wanted, rel=1e-4) and rows[colluders] >= wanted * (1 - 1e-6)
    assert rows[0] < rows[1] < rows[2]
    assert rows[1] == pytest.approx(body["sites"][0]["epsilon_planned"], rel=1e-6)
    assert "while at most 1 of a sum's sites" in body["summary"]["condition"]


@pytest.mark.parametrize(("honest", "least"), [(1, 2), (3, 4), (100, 150), (1000, 1500)])
@pytest.mark.parametrize("sigma", [0.1, 1.0, 7.0])
def test_no_row_counts_on_more_noise_than_the_lattice_leaves(honest: int, least: int, sigma: float) -> None:
    terms = Terms.planned(
        "run",
        {f"s{number:04d}": f"{number:064x}" for number in range(least)},
        {"w": (100,)},
        clip=1.0,  # the coarsest: 2^20 lattice steps
        noise_multiplier=sigma,
        sampling_rate=0.5,
        steps=3,
        repeats=0,
        honest=honest,
        least_cohort=least,
    )
    shared = Shared(least, honest, least, 1)
    for colluders in {0, 1, least - honest, least // 2, least - 1}:
        said, there = shared.multiplier(sigma, colluders), terms.lattice.multiplier(least - colluders)
        assert there * (1 - 1e-3) < said <= there * (1 + 1e-15)


def test_a_patient_of_several_sites_moves_one_sum_several_times(body: dict[str, Any]) -> None:
    lines = {line["sites"]: line["epsilon"] for line in body["joint"]}
    assert list(lines) == [1, 2, 4]
    # Two independent mechanisms would cost less than a group of two in one sum.
    twice = epsilon([EVENT, EVENT], DELTA)
    assert lines[2] > 1.1 * twice


def test_it_says_against_whom_and_verifies(body: dict[str, Any]) -> None:
    assert verify_report(body) == [] and unfinished(body) == []
    VALIDATOR.validate(body)
    said = json.dumps(body["threats"]) + json.dumps(body["checklist"])
    assert "even if all other sites and the server collude" not in said
    assert "each site adds its own noise" not in said
    page = render_report(body)
    assert "If sites work together" in page and "as claimed" in page and "all others" in page


@pytest.mark.parametrize(
    "path", [("by_colluders", 2, 1), ("honest",), ("least_cohort",), ("sites",), ("colluders",)]
)
def test_an_edited_row_is_found(body: dict[str, Any], path: tuple[Any, ...]) -> None:
    edited = copy.deepcopy(body)
    part = edited["shared"]
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] *= 0.9 if isinstance(part[path[-1]], float) else 2
    edited["digest"] = ""
    assert any(finding.startswith("shared") for finding in verify_report(edited))


def test_a_site_that_states_another_plan_for_the_sum_is_no_part_of_it(state_run: State) -> None:
    one, *others = statements(state_run)
    for changes in (
        {"shared": replace(SHARED, honest=3)},
        {"shared": None},
        {"event": replace(EVENT, noise_multiplier=2.0)},
    ):
        odd = state_run(
            SITES[0], **({"rounds": 5, "steps": 1, "asked": STEP_BY_STEP, "shared": SHARED} | changes)
        )
        with pytest.raises(ReportError, match="different plans"):
            build_report([odd, *others], facts())
    assert one["shared"] == vars(SHARED)


def test_an_early_report_is_none_of_the_whole_run_however_many_attempts_were_charged(
    state_run: State,
) -> None:
    run = facts(answered=dict.fromkeys(SITES, ((1, 3),)))  # the coordinator says that all rounds are done
    early = build_report(statements(state_run, replace(SHARED, step=3)), run)
    assert verify_report(early) == []
    assert any("the last in round 3 of 4" in reason for reason in unfinished(early))


@pytest.mark.parametrize(
    "shared",
    [
        {"sites": 4, "honest": 0, "least_cohort": 3, "step": 4},
        {"sites": 4, "honest": 4, "least_cohort": 3, "step": 4},
        {"sites": 2, "honest": 2, "least_cohort": 3, "step": 4},
        {"sites": 4, "honest": 1, "least_cohort": 1, "step": 4},
        {"sites": 4, "honest": 2, "least_cohort": 3, "step": 0},
        {"sites": 4, "honest": 2, "least_cohort": 3},
        {"sites": 4, "honest": 2.0, "least_cohort": 3, "step": 4},
        [4, 2, 3, 4],
    ],
)
def test_what_cannot_be_shared_like_this_is_not_read(state_run: State, shared: Any) -> None:
    key = Ed25519PrivateKey.generate()
    with pytest.raises(ReportError):
        read_statement(seal(state_run(key=key) | {"shared": shared}, key))
