"""What sites released of their held-out patients in a run: one noised table of counts each, stated and signed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from privacy.errors import ReportError
from privacy.ledger import evaluation_id
from privacy.metrics import estimate, sensitivity
from privacy.report.numbers import charged, number
from privacy.report.statement import Statement, read_statement

_CLAIM_TOLERANCE = 1e-4  # relative; by which accounting may differ between two machines


@dataclass(frozen=True)
class Pooled:
    """The sum of the tables (`privacy.metrics`) that sites released: no site's own table, which tells its size.

    Attributes:
        sites: whose tables are in it.
        tables: float64 (T, 2, B).
    """

    sites: tuple[str, ...]
    tables: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads."""
        return {"sites": list(self.sites), "tables": self.tables.tolist()}

    @staticmethod
    def from_json(value: Any) -> Pooled:
        """Read what `to_json` wrote. Raises ValueError, TypeError or KeyError for anything else."""
        tables = np.array(value["tables"], dtype=np.float64)
        sites = tuple(value["sites"])
        if set(value) != {"sites", "tables"} or not all(isinstance(site, str) for site in sites):
            raise ValueError("pooled holds something else")
        if tables.ndim != 3 or tables.shape[1] != 2 or tables.size == 0 or not np.isfinite(tables).all():
            raise ValueError(f"pooled tables of shape {tables.shape}")
        return Pooled(sites, tables)


def results(pooled: Pooled, stated: Sequence[Statement]) -> dict[str, Any]:
    """AUROC and calibration with their errors, from the pooled tables and the noise that each site stated.

    Raises:
        ReportError: a site in it has not stated its noise, or is in it twice.
    """
    noise = {each.site: each.mechanism.noise_multiplier for each in stated}
    if (
        not pooled.sites
        or len(set(pooled.sites)) != len(pooled.sites)
        or not noise.keys() >= set(pooled.sites)
    ):
        raise ReportError(
            f"The pooled results are said to be of {', '.join(pooled.sites) or 'nobody'}, but only "
            f"{', '.join(noise) or 'nobody'} stated an evaluation, each once."
        )
    unit = sensitivity(len(pooled.tables))
    std = math.sqrt(sum((noise[site] * unit) ** 2 for site in pooled.sites))
    found = estimate(pooled.tables, std).to_json()
    found["reliability"] = [[list(point) for point in table] for table in found["reliability"]]
    return {"sites": list(pooled.sites), "noise_std": std, **found}


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
