"""Interactive plots: one HTML file each, with the plotting library inside, so that it works offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from privacy.planner import Setting

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_SYMBOLS = ("star", "circle", "square", "diamond")


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
    return page(figure, title)


def page(figure: Figure, title: str) -> str:
    """A figure as a whole page without anything to fetch."""
    figure.update_layout(title=title, template="plotly_white", legend={"orientation": "h", "y": -0.2})
    text: str = figure.to_html(full_html=True, include_plotlyjs=True, config={"displaylogo": False})
    return text.replace(
        "<head>", f'<head><title>{title}</title><meta name="viewport" content="width=device-width">', 1
    )


def _described(one: Setting) -> str:
    return (
        f"sampling rate {one.sampling_rate:.4g}, {one.steps} steps, {one.records_per_patient} records<br>"
        f"noise multiplier {one.noise_multiplier:.4f}, epsilon {one.epsilon:.3f}<br>"
        f"signal / noise {one.signal_to_noise:.3g}"
    )
