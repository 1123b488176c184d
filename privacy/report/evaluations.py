"""What sites released of their held-out patients in a run: one noised table of counts each, stated and signed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from privacy.errors import ReportError
from privacy.ledger import evaluation_id
from privacy.report.numbers import charged, number
from privacy.report.statement import Statement, read_statement

_CLAIM_TOLERANCE = 1e-4  # relative; by which accounting may differ between two machines


def read_evaluations(values: Sequence[Mapping[str, Any]], run_id: str) -> list[Statement]:
    """Check the sites' statements on their evaluations.

    Raises:
        ReportError: one is not signed, is not of this run's evaluation, or two are of one site.
    """
    stated = [read_statement(value) for value in values]
    for each in stated:
        if each.run_id != evaluation_id(run_id):
            raise ReportError(f"The statement of site {each.site} is not of an evaluation in run {run_id}.")
        if each.mechanism.sampling_rate != 1 or each.mechanism.steps != 1:
            raise ReportError(
                f"The evaluation of site {each.site} is not one release of all held-out patients."
            )
    if len({each.site for each in stated}) != len(stated):
        raise ReportError("Two statements are of the same site's evaluation: each site releases once.")
    return stated


def evaluation_row(stated: Statement) -> dict[str, Any]:
    """A site's evaluation as the report lists it: its cost is recomputed from the signed event."""
    cost = charged(stated.mechanism, 1, stated.delta)
    problems = []
    if stated.epsilon < cost * (1 - _CLAIM_TOLERANCE):
        problems.append(f"it claims epsilon {stated.epsilon:.6g} for its evaluation, which costs {cost:.6g}")
    if stated.steps != 1:
        problems.append("its evaluation was not charged")
    return {
        "site": stated.site,
        "noise_multiplier": stated.mechanism.noise_multiplier,
        "delta": stated.delta,
        "epsilon": number(cost),
        "rule": stated.rule,
        "problems": problems,
    }
