"""A report as tables of text, and as one HTML page that needs no network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from mmmed.inference.subgroups import RULE
from mmmed.text import shown
from mmmed.watch.drift import FEWEST, MOVED, SHIFTED, Stability
from mmmed.watch.report import Report

_STAYS = "All of this stays at the site: no command or run sends any of it."
_HOW = (
    f"PSI: population stability index, by tenths of the reference. Below {MOVED} stable, from {SHIFTED} shifted; an "
    f"index within what chance alone gives in 99 of 100 comparisons is called stable. Of fewer than {FEWEST} studies "
    "it is not computed. Intervals are of 95 %: Wilson's for shares, bootstrap of patients for scores."
)

BELOW = (_HOW, RULE, _STAYS)


@dataclass(frozen=True)
class Part:
    """A table with its title; `empty` is said where it has no row."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    empty: str


def parts(found: Report) -> Iterator[Part]:
    """The tables of a report."""
    head = ("", "PSI", "by chance", "reference", "now", "", "most")
    later = "Nothing to compare yet."
    yield Part("Predictions", head, [_stability(*one) for one in found.predictions.items()], later)
    yield Part("Inputs", head, [_stability(*one) for one in found.inputs.items()], later)
    yield Part(
        "Missing",
        ("", "reference", "now", "change", ""),
        [
            (m.modality, _percent(m.reference[0]), _of(m.now), _of(m.change, True), m.verdict)
            for m in found.missing
        ],
        later,
    )
    yield Part(
        "Calibration, by month of prediction",
        ("month", "answer", "labels", "predicted", "true", ""),
        [
            (c.month, c.question, str(c.studies), _percent(c.predicted), _of(c.observed), c.verdict)
            for c in found.calibration
        ],
        "No month has labels of enough patients, or the task has no yes and no. Add them: mmmed watch add-labels",
    )
    yield Part(
        f"{found.score}, by groups",
        ("", "group", "patients", "score", "less all others", ""),
        [
            (g.by, g.name or "not known", str(g.patients), _score(g.value), _score(g.gap, True), _gap(g.gap))
            if g.told
            else (g.by, g.name or "not known", "few", "not told", "", "")
            for g in found.groups
        ],
        "No labels yet.",
    )


def heading(found: Report) -> list[str]:
    """What the report is of, in sentences."""
    others = f", one of {found.models} in this log" if found.models > 1 else ""
    lines = [
        f"Model {found.model}{others}. Predicts {shown(found.predicts)}.",
        f"{found.studies} studies, {found.labelled} with a label.",
    ]
    if found.now is not None:
        lines.append(
            f"Reference {found.reference}: {found.counts[0]} studies. Now {found.now}: {found.counts[1]} studies."
        )
    return [*lines, *found.notes]


def to_html(found: Report) -> str:
    """The report as one HTML page: no script, no external part, light and dark."""
    import jinja2

    loader = jinja2.ChoiceLoader(
        [jinja2.PackageLoader("mmmed.watch"), jinja2.PackageLoader("mmmed.dashboard")]
    )
    pages = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = (files("mmmed.dashboard") / "static" / "style.css").read_text(encoding="utf-8")
    return pages.get_template("alone.html").render(style=style, **values(found))


def values(found: Report) -> dict[str, Any]:
    """What the templates show."""
    return {"heading": heading(found), "parts": list(parts(found)), "below": BELOW}


def _stability(name: str, one: Stability) -> tuple[str, ...]:
    index, chance = ("", "") if one.index is None else (f"{one.index:.3f}", f"{one.chance:.3f}")
    return name, index, chance, str(one.reference), str(one.now), one.verdict, shown(one.where)


def _percent(share: float, sign: bool = False) -> str:
    return "-" if share != share else f"{100 * share:{'+' if sign else ''}.0f} %"


def _of(one: tuple[float, float, float], sign: bool = False) -> str:
    if one[0] != one[0]:
        return "-"
    low, high = (f"{100 * end:{'+' if sign else ''}.0f}" for end in one[1:])
    return f"{_percent(one[0], sign)} [{low}, {high}]"


def _score(one: tuple[float, float, float], sign: bool = False) -> str:
    if one[0] != one[0]:
        return "undefined"
    value, low, high = (f"{number:{'+' if sign else ''}.2f}" for number in one)
    return value if "nan" in low + high else f"{value} [{low}, {high}]"


def _gap(gap: tuple[float, float, float]) -> str:
    return "GAP" if gap[1] > 0 or gap[2] < 0 else ""
