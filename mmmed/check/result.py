"""What a check found, in the form in which it is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Plot:
    """A share in [0, 1] for each name; of a histogram, for the lower edge of each bin."""

    title: str
    bars: tuple[tuple[str, float], ...]
    histogram: bool = False


@dataclass(frozen=True)
class Example:
    """An image or volume, and why it is shown."""

    path: Path
    why: str


@dataclass
class CheckResult:
    """What was found.

    Attributes:
        problems: reasons why the data set cannot be trained on.
        warnings: what a human should look into; the data set can be trained on.
        facts: section -> lines of (what, value), counts rounded.
        plots: section -> plots beside its facts.
        examples: images and volumes, the outliers first, then of a random sample.
    """

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    plots: dict[str, list[Plot]] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)

    @property
    def trainable(self) -> bool:
        return not self.problems

    def summary(self) -> str:
        """Lines for the terminal."""
        lines = [f"{'trainable' if self.trainable else 'NOT trainable'}"]
        for section, facts in self.facts.items():
            lines += [section, *(f"  {name:36} {value}" for name, value in facts)]
        lines += [f"warning: {one}" for one in self.warnings] + [f"problem: {one}" for one in self.problems]
        return "\n".join(lines)
