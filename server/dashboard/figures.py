"""Figures as Plotly's JavaScript draws them: plain data, coloured by the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Course = Mapping[str, Sequence[tuple[int, float]]]


def against_round(courses: Course, label: str, *, limit: float | None = None) -> dict[str, Any]:
    """A plot with one line for each site against the round, and a dashed line at the limit."""
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": site,
            "x": [number for number, _ in course],
            "y": [value for _, value in course],
        }
        for site, course in sorted(courses.items())
    ]
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": "round"}, "dtick": 1 if _rounds(courses) < 15 else None},
        "yaxis": {"title": {"text": label}},
        "showlegend": True,
    }
    if limit is not None:
        edge = {"xref": "paper", "x0": 0, "x1": 1, "y0": limit, "y1": limit}
        layout["shapes"] = [{"type": "line", **edge, "line": {"color": "#dc2626", "dash": "dash"}}]
        text = {"text": f"limit {limit:g}", "showarrow": False, "yanchor": "bottom"}
        layout["annotations"] = [{"xref": "paper", "x": 0, "xanchor": "left", "y": limit, **text}]
        layout["yaxis"]["range"] = [0, 1.15 * max(limit, *(v for c in courses.values() for _, v in c), 0)]
    return {"data": data, "layout": layout}


def rows(courses: Course, digits: int = 3) -> list[list[str]]:
    """A table of values with one row for each round and one column for each site, in the order of `against_round`."""
    numbers = sorted({number for course in courses.values() for number, _ in course})
    values = {site: dict(course) for site, course in courses.items()}
    return [
        [str(n), *(f"{values[s][n]:.{digits}f}" if n in values[s] else "-" for s in sorted(courses))]
        for n in numbers
    ]


def _rounds(courses: Course) -> int:
    return max((len(course) for course in courses.values()), default=0)
