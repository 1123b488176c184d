"""Plots of simulations as the privacy report draws them: SVG, without scripts, light or dark as the reader's system is.

SVG and not PNG: the project draws its plots so already, a browser and a paper take them at any size, and a library that
paints pixels would be the largest thing that a simulation needs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from mmmed.config import RunConfig
from mmmed.inference.predict import Predictions
from mmmed.tasks.base import Target
from privacy.report.plots import TONES, Axis, Line, Plot, spending

PICTURES = "pictures"  # folder of a run's
_BINS = 10  # of a calibration plot, with as many records each
_MOST_POINTS = 200  # of a line


def render(name: str, **values: object) -> str:
    """A page from a template of `simulations/templates`; it may use those of the privacy report."""
    return _environment().get_template(name).render(**values)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    folders = [PackageLoader("simulations", "templates"), PackageLoader("privacy", "templates")]
    return Environment(
        loader=ChoiceLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def picture(plot: Plot) -> str:
    """A plot as an SVG file of its own."""
    return render("picture.svg", plot=plot)


def around(values: Sequence[float], label: str, *, within: tuple[float, float] | None = None) -> Axis:
    """An axis with round ends about values, and inside `within` if that is given."""
    low, high = (float(min(values)), float(max(values))) if values else (0.0, 1.0)
    step = 10.0 ** math.floor(math.log10(max(high - low, 0.05 * max(abs(high), abs(low)), 1e-3)))
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    if high <= low:
        high = low + step
    if within is not None and high > within[1]:
        low, high = min(low, within[1] - step), within[1]
    if within is not None:
        low = max(low, within[0])
    return Axis(label, round(low, 9), round(high, 9))


def run_pictures(
    config: RunConfig, predictions: Sequence[Predictions], report: Path
) -> Iterator[tuple[str, str]]:
    """Names and contents of the SVG files of a run.

    Args:
        config: the run's.
        predictions: of held-out records.
        report: the run's ``privacy.json``, which may be missing.
    """
    if config.task.release is not None and config.task.release.kind == "tables" and predictions:
        target = config.task.target()
        yield "roc.svg", picture(roc(target, predictions))
        yield "calibration.svg", picture(calibration(target, predictions))
    if report.is_file():
        sites = json.loads(report.read_text(encoding="utf-8"))["sites"]
        plot = spending(
            [(site["site"], site["course"]) for site in sites],
            limit=config.privacy.target_epsilon,
            rounds=config.federation.rounds,
            planned=max((site["epsilon_charged"] for site in sites), default=0.0),
        )
        yield "epsilon.svg", picture(plot)


def courses(lines: Mapping[str, Sequence[tuple[int, float]]], label: str, title: str) -> Plot:
    """Values against the round, a line each."""
    values = [value for course in lines.values() for _, value in course]
    last = max((number for course in lines.values() for number, _ in course), default=1)
    return Plot(
        title=title,
        x=Axis("round", 0, max(last, 1), whole=True),
        y=around(values, label),
        lines=[Line(name, course, tone=i % TONES) for i, (name, course) in enumerate(lines.items())],
        points=[(x, y, f"{name}, round {x}: {y:.3f}") for name, course in lines.items() for x, y in course],
    )


def roc(target: Target, predictions: Sequence[Predictions]) -> Plot:
    """The ROC curve of each question with yes or no, held-out records of all sites together."""
    lines = [Line("chance", [(0.0, 0.0), (1.0, 1.0)], tone=TONES - 1, dashed=True)]
    for number, (name, score, label) in enumerate(_questions(target, predictions)):
        order = np.argsort(-score, kind="stable")
        last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # equal scores are one point
        hits, total = np.cumsum(label[order])[last], np.arange(1, len(order) + 1)[last]
        points = [(0.0, 0.0), *zip((total - hits) / (label == 0).sum(), hits / label.sum(), strict=True)]
        lines.append(Line(name, _thinned(points), tone=number % (TONES - 1)))
    return Plot(
        title="ROC curve: true-positive rate against false-positive rate on held-out records",
        x=Axis("false-positive rate", 0, 1),
        y=Axis("true-positive rate", 0, 1),
        lines=lines,
    )


def calibration(target: Target, predictions: Sequence[Predictions]) -> Plot:
    """Share of yes against the mean predicted probability, in bins of as many held-out records each."""
    lines = [Line("ideal", [(0.0, 0.0), (1.0, 1.0)], tone=TONES - 1, dashed=True)]
    points = []
    for number, (name, score, label) in enumerate(_questions(target, predictions)):
        bins = [part for part in np.array_split(np.argsort(score, kind="stable"), _BINS) if len(part)]
        course = [(float(score[part].mean()), float(label[part].mean())) for part in bins]
        lines.append(Line(name, course, tone=number % (TONES - 1)))
        points += [
            (x, y, f"{name}: {y:.2f} of {len(part)} records, predicted {x:.2f}")
            for (x, y), part in zip(course, bins, strict=True)
        ]
    return Plot(
        title="Calibration: share of yes against predicted probability on held-out records",
        x=Axis("predicted probability", 0, 1),
        y=Axis("share of yes", 0, 1),
        lines=lines,
        points=points,
    )


def _questions(
    target: Target, predictions: Sequence[Predictions]
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Of each question: its name, (N,) probability of yes, (N,) 1 or 0, of records that know."""
    predicted = np.concatenate([one.prediction for one in predictions])
    score, label = target.evidence(predicted, np.concatenate([one.label for one in predictions]))
    names, number = list(target.names), score.shape[1]
    if len(target.groups) == len(
        names
    ):  # classes: of two the second is asked for, of those in order what is above
        ordered = 2 < len(names) == number + 1
        names = [f"at least {name}" for name in names] if ordered else list(target.groups)
    names = names[-number:] if len(names) >= number else [f"question {one + 1}" for one in range(number)]
    found = []
    for name, own, true in zip(names, score.T, label.T, strict=True):
        known = ~np.isnan(true)
        if 0 < true[known].sum() < known.sum():
            found.append((str(name), own[known], true[known]))
    return found


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    kept = np.unique(np.linspace(0, len(points) - 1, min(len(points), _MOST_POINTS)).round().astype(int))
    return [(float(points[i][0]), float(points[i][1])) for i in kept]
