"""Figures of a dashboard's sections for Prometheus, in its text format (version 0.0.4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Gauge:
    """One figure, of each of several things.

    Attributes:
        name: in Prometheus' form, with its unit: ``mmmed_site_epsilon_spent``.
        words: what it is.
        samples: labels and value of each; those without a value are left out by whoever makes it.
    """

    name: str
    words: str
    samples: Sequence[tuple[Mapping[str, str], float]]


def exposition(gauges: Iterable[Gauge]) -> str:
    """The gauges as a scrape's answer; those of one name, of several sections, come together."""
    together: dict[str, list[str]] = {}
    for gauge in gauges:
        head = [f"# HELP {gauge.name} {gauge.words}", f"# TYPE {gauge.name} gauge"]
        lines = together.setdefault(gauge.name, head)
        for labels, value in gauge.samples:
            inside = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
            lines.append(f"{gauge.name}{{{inside}}} {value:.10g}" if inside else f"{gauge.name} {value:.10g}")
    return "".join(f"{line}\n" for lines in together.values() for line in lines)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
