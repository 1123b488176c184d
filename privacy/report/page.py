"""The report as one HTML page: plain words first, no external part, no script."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from privacy.disk import write_durable
from privacy.report.numbers import COURSE_POINTS
from privacy.report.plots import Axis, Bar, Line, Plot, spending
from privacy.report.rounding import percent, shown
from privacy.report.templates import render
from privacy.report.unchecked import marks

_MARKED = (0.001, 0.01, 0.1)


def render_report(body: Mapping[str, Any]) -> str:
    """The HTML page of a report that `build_report` made."""
    sites = body["sites"]
    plots = _Plots(body) if sites else None
    bars = [
        Bar(
            s["site"],
            _finite(s["epsilon_charged"]),
            _finite(s["epsilon_planned"]),
            body["run"]["target_epsilon"],
        )
        for s in sites
    ]
    # Reports of before lack what was not yet told.
    summary = {"condition": None, "open": [], **body["summary"]}
    rows = [{"size": None, "warnings": [], **site} for site in sites]
    shown_body = {**body, "summary": summary, "sites": rows}
    return render("report.html", body=shown_body, plots=plots, bars=bars, marks=marks(body))


def write_report(body: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """Write ``privacy.json`` and ``privacy.html``, each replaced whole; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(body, indent=2, allow_nan=False) + "\n"
    paths = folder / "privacy.json", folder / "privacy.html"
    for path, content in zip(paths, (text, render_report(body)), strict=True):
        write_durable(path, content.encode(), mode=0o666)
    return paths


class _Plots:
    """The plots of a report with at least one site."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._body = body

    @property
    def spending(self) -> Plot:
        """Epsilon against round."""
        sites = self._body["sites"]
        return spending(
            [(s["site"], [(n, _finite(value)) for n, value in s["course"]]) for s in sites],
            limit=self._body["run"]["target_epsilon"],
            rounds=self._body["run"]["rounds"],
            planned=max(_finite(s["epsilon_planned"]) for s in sites),
            stepped=self._body["run"]["rounds"] <= COURSE_POINTS,
        )

    @property
    def epsilon_by_delta(self) -> Plot:
        """Epsilon at other deltas, for the site with the most."""
        curve = self._worst("epsilon_by_delta")
        at, claimed = self._body["summary"]["delta"], _finite(self._body["summary"]["epsilon"])
        return Plot(
            title="Epsilon of the worst site's plan at other deltas",
            x=Axis("delta", curve[0][0], curve[-1][0], log=True),
            y=Axis("epsilon", 0, 1.1 * max(claimed, *(y for _, y in curve))),
            lines=[Line("", curve)],
            marks=[(at, claimed, f"{shown(claimed)} at {at:g}")],
            marks_above=True,
        )

    @property
    def trade_off(self) -> Plot:
        """The best attacker's true-positive rate against the false-positive rate, for the site with the most."""
        curve = self._worst("trade_off")
        rates = dict(map(tuple, self._body["risk"]["true_positive_rate"]))
        return Plot(
            title="Highest true-positive rate of any attacker against the false-positive rate",
            x=Axis("false-positive rate", curve[0][0], 1.0, log=True),
            y=Axis("true-positive rate", 0, 1.0),
            lines=[
                Line("best attacker", curve),
                Line("guessing", [(x, x) for x, _ in curve], tone=1, dashed=True),
            ],
            marks=[(rate, rates[rate], percent(rates[rate])) for rate in _MARKED],
        )

    @property
    def utility(self) -> Plot | None:
        """What is told of the AUROC, against what the worst site had been charged by then; None if nothing is told.

        Metrics that sites show are a point a round. Private results leave once, at the end: one point, with its error.
        """
        points = [(_finite(spent), value) for spent, value, _ in self._body["utility"]]
        found, errors = self._body["results"], []
        if not points and found and found.get("auroc") is not None:
            spent = max(_finite(site["epsilon_charged"]) for site in self._body["sites"])
            points, errors = [(spent, found["auroc"])], [(spent, found["low"], found["high"])]
        if not points:
            return None
        last, value = points[-1]
        within = f" ({errors[0][1]:.3f} to {errors[0][2]:.3f})" if errors else ""
        end = (1.5 if errors else 1.05) * max(x for x, _ in points)
        return Plot(
            title="AUROC on held-out patients against the epsilon charged by then",
            x=Axis("epsilon", 0, end),
            y=Axis("AUROC", 0, 1.0),
            lines=[
                Line("" if errors else "mean of sites", points),
                Line("guessing", [(0, 0.5), (end, 0.5)], 1, dashed=True),
            ],
            marks=[(last, value, f"{value:.3f}{within}")],
            errors=errors,
            marks_above=True,
        )

    def _worst(self, name: str) -> list[tuple[float, float]]:
        curves: Sequence[Sequence[Sequence[Any]]] = [each[name] for each in self._body["accounting"]]
        return [
            (pairs[0][0], max(_finite(value) for _, value in pairs)) for pairs in zip(*curves, strict=True)
        ]


def _finite(value: float | str) -> float:
    """A number to draw; what has no bound is drawn at the top."""
    return 1e3 if isinstance(value, str) else float(value)
