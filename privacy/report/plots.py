"""The geometry of the report's plots; `templates/plot.html` draws them as inline SVG, without scripts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from privacy.report.rounding import shown

WIDTH, HEIGHT = 720, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 120, 16, 44
_LABEL_HEIGHT = 14
_MOST_LABELS = 12
TONES = 8  # colours in the style sheet


@dataclass(frozen=True)
class Axis:
    """A scale with round ticks, linear from 0 or logarithmic.

    Attributes:
        label: what it shows.
        low: value at its start.
        high: value at its end.
        log: whether it is logarithmic, with ticks at powers of ten.
        whole: whether ticks are whole numbers.
    """

    label: str
    low: float
    high: float
    log: bool = False
    whole: bool = False

    def share(self, value: float) -> float:
        """Where a value lies between start (0) and end (1); values beyond an end lie at it."""
        if self.log:
            value = max(value, self.low)
            found = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            found = (value - self.low) / (self.high - self.low)
        return min(max(found, 0.0), 1.0)

    @property
    def ticks(self) -> list[float]:
        """Powers of ten, or multiples of 1, 2 or 5 times one."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            return [10.0**power for power in range(first, last + 1)]
        span = self.high - self.low
        magnitude = 10.0 ** math.floor(math.log10(span / 5))
        step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= span / 5 * (1 - 1e-9))
        step = max(1.0, round(step)) if self.whole else step
        return [self.low + step * i for i in range(int(span / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Line:
    """One line of a plot; stepped where the value holds until the next point."""

    name: str
    points: Sequence[tuple[float, float]]
    tone: int = 0
    stepped: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Plot:
    """A plot in a frame of 720 x 320.

    Attributes:
        title: what a reader who cannot see it is told.
        x, y: the axes.
        lines: the lines; names are written at their ends while they fit.
        limits: (y, label) of dashed horizontal lines.
        band: (low y, high y, label) of a shaded band.
        marks: (x, y, label) of marked points.
        points: (x, y, text) of points that show a text while the pointer is on them.
        errors: (x, low y, high y) of vertical error bars.
        marks_above: whether a mark's label is above its point (for a falling line) or below.
    """

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    limits: Sequence[tuple[float, str]] = ()
    band: tuple[float, float, str] | None = None
    marks: Sequence[tuple[float, float, str]] = ()
    points: Sequence[tuple[float, float, str]] = ()
    errors: Sequence[tuple[float, float, float]] = ()
    marks_above: bool = False

    width, height = WIDTH, HEIGHT
    left, right, top, bottom = _LEFT, WIDTH - _RIGHT, _TOP, HEIGHT - _BOTTOM

    def at_x(self, value: float) -> float:
        """Horizontal position."""
        return round(self.left + (self.right - self.left) * self.x.share(value), 1)

    def at_y(self, value: float) -> float:
        """Vertical position."""
        return round(self.bottom - (self.bottom - self.top) * self.y.share(value), 1)

    def path(self, line: Line) -> str:
        """The points of a line, as SVG has them."""
        points: list[tuple[float, float]] = []
        for x, y in line.points:
            if line.stepped and points:
                points.append((x, points[-1][1]))
            points.append((x, y))
        return " ".join(f"{self.at_x(x)},{self.at_y(y)}" for x, y in points)

    @property
    def labels(self) -> list[tuple[Line, float]]:
        """Each named line and the height of its name, spread so that names do not overlap."""
        named = sorted(
            (line for line in self.lines if line.name and line.points), key=lambda n: -n.points[-1][1]
        )
        if len(named) > _MOST_LABELS:
            return []
        heights: list[float] = []
        for line in named:
            wanted = self.at_y(line.points[-1][1]) + 4
            heights.append(max(wanted, heights[-1] + _LABEL_HEIGHT) if heights else wanted)
        lowest = [self.bottom + 4 - _LABEL_HEIGHT * below for below in reversed(range(len(named)))]
        return [
            (line, round(min(height, low), 1))
            for line, height, low in zip(named, heights, lowest, strict=True)
        ]


@dataclass(frozen=True)
class Bar:
    """A site's budget: what is spent of it, and what its plan has reserved beyond."""

    name: str
    spent: float
    planned: float
    limit: float

    @property
    def shares(self) -> tuple[float, float, float]:
        """Widths of the parts spent, reserved and free, in per cent of the whole bar."""
        whole = max(self.limit, self.planned, self.spent)
        spent, planned = 100 * self.spent / whole, 100 * max(self.planned, self.spent) / whole
        return round(spent, 2), round(planned - spent, 2), round(100 - planned, 2)


def spending(
    courses: Sequence[tuple[str, Sequence[tuple[int, float]]]],
    *,
    limit: float,
    rounds: int,
    planned: float,
    stepped: bool = True,
) -> Plot:
    """Epsilon against round, a line a site, with the limit and the band that plans have reserved.

    Args:
        courses: of each site, (round, epsilon of everything charged so far).
        limit: the run's target epsilon.
        rounds: rounds of the run.
        planned: the largest epsilon that a site's plan has reserved.
        stepped: whether the courses have every round.
    """
    lines = [
        Line(name, [(0, 0.0), *course], tone=i % TONES, stepped=stepped)
        for i, (name, course) in enumerate(courses)
    ]
    spent = max((course[-1][1] for _, course in courses if course), default=0.0)
    last = max((course[-1][0] for _, course in courses if course), default=1)
    band = (spent, planned, "reserved") if planned > 1.01 * spent else None
    return Plot(
        title="Epsilon charged against round, one line a site, with the limit",
        x=Axis("round", 0, max(rounds, last), whole=True),
        y=Axis("epsilon", 0, 1.1 * max(limit, planned, spent)),
        lines=lines,
        limits=[(limit, f"limit {limit:g}")],
        points=[
            (at, value, f"{name}, round {at}: epsilon {shown(value)}")
            for name, course in courses
            for at, value in course
        ],
        band=band,
    )
