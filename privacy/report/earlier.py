"""A report as earlier schemas had it, so that those of earlier versions are verified still."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from privacy.errors import ReportError
from privacy.metrics.release import edges
from privacy.report import texts
from privacy.report.statement import Statement

V4 = "mmmed-privacy-report/4"  # does not say how many rounds are done, and understates an error
V3 = "mmmed-privacy-report/3"  # holds statements that do not say what was asked


def as_before(body: Mapping[str, Any], stated: Sequence[Statement], schema: str) -> dict[str, Any]:
    """A report of the present schema, without its digest, as one of `V4` or `V3`.

    Raises:
        ReportError: a statement says more than a report of that schema tells, or the schema is no earlier one.
    """
    if schema not in (V4, V3):
        raise ReportError(f"No report has the schema {schema!r}.")
    of_4 = _as_4(body)
    return of_4 if schema == V4 else _as_3(of_4, stated)


def _as_4(body: Mapping[str, Any]) -> dict[str, Any]:
    summary = _without(body["summary"], "rounds_done", "open")
    if summary["status"] == "unfinished":
        summary |= {"status": "complete", "meaning": texts.STATUS["complete"]}
    return {
        **body,
        "run": _without(body["run"], "done"),
        "summary": summary,
        "results": _with_errors_of_4(body["results"], body["run"]["pooled"]),
        "not_checked": [path for path in body["not_checked"] if path != "run/done"],
    }


def _with_errors_of_4(
    found: dict[str, Any] | None, pooled: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Results whose reliability points have their error at the share that was found, which understates it."""
    if found is None or pooled is None:
        return found
    tables = []
    for points, table in zip(found["reliability"], np.array(pooled["tables"], dtype=np.float64), strict=True):
        limits = edges(table.shape[1])
        middles = ((limits[:-1] + limits[1:]) / 2).tolist()
        shares = [
            float(table[1, i] / table[:, i].sum()) for i in (middles.index(point[0]) for point in points)
        ]
        tables.append(
            [[*p[:2], p[2] * math.hypot(1 - share, share)] for p, share in zip(points, shares, strict=True)]
        )
    return {**found, "reliability": tables}


def _as_3(body: Mapping[str, Any], stated: Sequence[Statement]) -> dict[str, Any]:
    if any(each.asked is not None for each in stated):
        raise ReportError(f"A report of schema {V3} holds a statement that is newer than it.")
    return {
        **_without(body, "not_checked"),
        "not_signed_by_sites": ["run", "audits", "attack"],
        "summary": _without(body["summary"], "condition"),
        "checklist": [
            texts.FLOATING_POINT_BEFORE if row["item"] == texts.FLOATING_POINT_BEFORE["item"] else row
            for row in body["checklist"]
        ],
        "sites": [_without(site, "size", "warnings") for site in body["sites"]],
    }


def _without(part: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name not in names}
