"""Interactive plots: one HTML file each, with the plotting library inside, so that it works offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privacy.accounting import shown
from privacy.planning.settings import Setting
from privacy.report.templates import render

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_NO_COLOUR = "rgba(0,0,0,0)"
_CLEAR = {
    "paper_bgcolor": _NO_COLOUR,
    "plot_bgcolor": _NO_COLOUR,
    "font": {"color": "#808080"},
    "modebar": {"bgcolor": _NO_COLOUR},
}
_CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["sendChartToCloud", "select2d", "lasso2d"],  # the first uploads what is shown
}
_DODGE = 1.02  # so that settings at one epsilon do not hide each other
_SYMBOLS = ("star", "circle", "square", "diamond", "cross", "triangle-up", "x", "hexagon")


def plan_page(asked: Setting, others: Sequence[Setting], title: str) -> str:
    """Signal-to-noise against what a setting costs in compute; a symbol for the records of a patient."""
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    groups: Mapping[str, list[Setting]] = {
        "as asked": [asked],
        **{
            f"{count} record{'s' * (count > 1)} a patient": [
                o for o in others if o.records_per_patient == count
            ]
            for count in sorted({other.records_per_patient for other in others})
        },
    }
    for number, (name, members) in enumerate(groups.items()):
        figure.add_trace(
            Scatter(
                name=name,
                mode="markers",
                x=[one.passes for one in members],
                y=[one.signal_to_noise for one in members],
                marker={
                    "size": 14 if number == 0 else 9,
                    "symbol": _SYMBOLS[number % len(_SYMBOLS)],
                },
                text=[_described(one) for one in members],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    figure.update_xaxes(title="passes over the records", type="log")
    figure.update_yaxes(title="signal / noise of the whole run, one coordinate", type="log")
    return page(
        figure,
        title,
        "All keep the same budget. Signal / noise is an upper bound, to compare settings by: training sees less of it.",
    )


@dataclass(frozen=True)
class Tried:
    """A setting of a sweep, and how it did over its seeds."""

    name: str
    epsilon: float
    mean: float
    low: float
    high: float
    on_front: bool


def pareto_page(tried: Sequence[Tried], *, score: str, seeds: int, delta: float) -> str:
    """Utility against epsilon: a trace for each setting with the range over seeds, and the front that none beats.

    Args:
        tried: the settings of a sweep, one mark each.
        score: the name of the score, as the axis shows it.
        seeds: runs of each setting.
        delta: the delta at which every epsilon holds.

    Returns:
        The page, HTML.
    """
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    front = sorted((one for one in tried if one.on_front), key=lambda one: one.epsilon)
    figure.add_trace(
        Scatter(
            name="best",
            mode="lines",
            x=[one.epsilon for one in front],
            y=[one.mean for one in front],
            line={"shape": "hv", "width": 3, "color": "#888888"},
            hoverinfo="skip",
        )
    )
    names = list(dict.fromkeys(one.name for one in tried))
    for number, name in enumerate(names):
        members = sorted((one for one in tried if one.name == name), key=lambda one: one.epsilon)
        aside = _DODGE ** (number - (len(names) - 1) / 2)
        figure.add_trace(
            Scatter(
                name=name,
                mode="markers",
                x=[one.epsilon * aside for one in members],
                y=[one.mean for one in members],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [one.high - one.mean for one in members],
                    "arrayminus": [one.mean - one.low for one in members],
                    "thickness": 1,
                },
                marker={
                    "size": [12 if one.on_front else 8 for one in members],
                    "symbol": _SYMBOLS[number % len(_SYMBOLS)],
                },
                text=[
                    f"{name}<br>epsilon {one.epsilon:g}: {one.mean:.3f}, from {one.low:.3f} to {one.high:.3f}"
                    for one in members
                ],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    levels = sorted({one.epsilon for one in tried})
    figure.update_xaxes(
        title=f"epsilon of the whole run, delta {delta:g}",
        type="log",
        tickvals=levels,
        ticktext=[f"{level:g}" for level in levels],
    )
    figure.update_yaxes(title=f"{score} within sites: mean and range of {seeds} seeds")
    return page(
        figure,
        "Utility against epsilon",
        "Each mark is a setting; the line is the best mean at an epsilon or below. The best of many settings looks a "
        "little better than it is, the more so where the ranges overlap.",
    )


def page(figure: Figure, title: str, note: str) -> str:
    """A figure as a whole page, light or dark as the reader's system is, with nothing to fetch and nowhere to send."""
    figure.update_layout(template="plotly_white", legend={"orientation": "h", "y": -0.2}, **_CLEAR)
    text: str = figure.to_html(full_html=False, include_plotlyjs=True, config=_CONFIG, default_height="75vh")
    return render("interactive.html", title=title, note=note, figure=text)


def _described(one: Setting) -> str:
    return (
        f"sampling rate {one.sampling_rate:.4g}, {one.steps} steps, {one.records_per_patient} records<br>"
        f"noise multiplier {one.noise_multiplier:.4f}, epsilon {shown(one.epsilon)}<br>"
        f"signal / noise {one.signal_to_noise:.3g}"
    )
