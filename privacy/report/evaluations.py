"""What sites released of their held-out patients in a run: one noised table of counts each, stated and signed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from privacy.errors import NoiseError, ReportError
from privacy.ledger import evaluation_id
from privacy.metrics import kind_of_sums
from privacy.report.numbers import charged, number
from privacy.report.statement import Statement, read_statement

_COUNTS = "tables"  # counts by label and score
_CLAIM_TOLERANCE = 1e-4  # relative; by which accounting may differ between two machines


@dataclass(frozen=True)
class Pooled:
    """The sum of the tables (`privacy.metrics`) that sites released: no site's own table, which tells its size.

    Attributes:
        sites: whose tables are in it.
        tables: float64, of a shape of its kind.
        kind: of the release, as `privacy.metrics.kinds` names it.
    """

    sites: tuple[str, ...]
    tables: np.ndarray
    kind: str = _COUNTS

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads. Counts by label and score name no kind, as ever."""
        named = {} if self.kind == _COUNTS else {"kind": self.kind}
        return {"sites": list(self.sites), "tables": self.tables.tolist(), **named}

    @staticmethod
    def from_json(value: Any) -> Pooled:
        """Read what `to_json` wrote. Raises ValueError, TypeError or KeyError for anything else."""
        tables = np.array(value["tables"], dtype=np.float64)
        sites = tuple(value["sites"])
        kind = value.get("kind", _COUNTS)
        if not {"sites", "tables"} <= set(value) <= {"sites", "tables", "kind"}:
            raise ValueError("pooled holds something else")
        if not all(isinstance(one, str) for one in (*sites, kind)):
            raise ValueError("pooled holds something else")
        if tables.ndim != 3 or tables.size == 0 or not np.isfinite(tables).all():
            raise ValueError(f"pooled tables of shape {tables.shape}")
        if kind == _COUNTS and tables.shape[1] != 2:
            raise ValueError(f"pooled tables of shape {tables.shape}")
        return Pooled(sites, tables, kind)


def results(pooled: Pooled, stated: Sequence[Statement]) -> dict[str, Any]:
    """The scores with their errors, from the pooled tables and the noise that each site stated.

    Raises:
        ReportError: a site in it has not stated its noise, or is in it twice, or the tables are of no kind.
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
    try:
        kind = kind_of_sums(pooled.kind, pooled.tables)
    except NoiseError as error:
        raise ReportError(f"The pooled results are of no known form: {error}") from error
    std = math.sqrt(sum((noise[site] * kind.sensitivity) ** 2 for site in pooled.sites))
    found = kind.estimate(pooled.tables, std).to_json()
    if "reliability" in found:
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
