"""What finding the settings cost: sweeps on sites' own patients, each stated and signed by its site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from privacy.accounting import SelectionEvent, claimed_epsilon
from privacy.errors import ReportError
from privacy.ledger import evaluation_id
from privacy.report.numbers import number
from privacy.report.statement import Statement, read_statement

_CLAIM_TOLERANCE = 1e-4  # relative; by which accounting may differ between two machines


def read_sweeps(values: Sequence[Mapping[str, Any]]) -> list[Statement]:
    """Check the sites' statements on their sweeps: of the patients trained on, and of those held out.

    Raises:
        ReportError: one is not signed, is not of a sweep, is there twice, or its other half is missing.
    """
    stated = [read_statement(value) for value in values]
    names = {(each.site, each.run_id) for each in stated}
    for each in stated:
        if not isinstance(each.event, SelectionEvent):
            raise ReportError(
                f"The statement of site {each.site} on {each.run_id} is on a run, not on a sweep."
            )
        half = each.run_id.removesuffix(evaluation_id(""))
        if {(each.site, half), (each.site, evaluation_id(half))} - names or len(names) < len(stated):
            raise ReportError(
                f"The sweep {half} of site {each.site} must have two statements: of the patients trained on, and of "
                "those held out."
            )
    return stated


def sweep_statements(file: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The site's statements in the ``sweep.json`` of `mmmed privacy tune`. Raises ReportError if it holds none."""
    try:
        return [dict(value) for value in file["statements"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ReportError(f"Not the sweep.json of a sweep at a site: {error!r}.") from None


def sweep_row(stated: Statement) -> dict[str, Any]:
    """A sweep as the report lists it: its cost is recomputed from the signed event."""
    event = stated.event
    if not isinstance(event, SelectionEvent):
        raise ReportError(f"The statement of site {stated.site} is not on a sweep.")
    cost = claimed_epsilon([event], stated.delta)
    problems = []
    if stated.epsilon < cost * (1 - _CLAIM_TOLERANCE):
        problems.append(f"it claims epsilon {stated.epsilon:.6g} for its sweep, which costs {cost:.6g}")
    if stated.steps != event.steps:
        problems.append("its sweep was not charged whole")
    held_out = stated.run_id.endswith(evaluation_id(""))
    return {
        "site": stated.site,
        "patients": "held out" if held_out else "trained on",
        "mean_trials": event.mean,
        "shape": event.shape,
        "noise_multiplier": min(trial.noise_multiplier for trial in event.trials),
        "delta": stated.delta,
        "epsilon": number(cost),
        "problems": problems,
    }
