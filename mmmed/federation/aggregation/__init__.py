"""Aggregation rules: how a round's updates become one. Each is one file here and one section below.

The code of a rule is a function of the updates and the keys of its section.

Median and trimmed mean: Yin et al. 2018, arXiv 1803.01498, definitions 1 and 2. Multi-Krum: Blanchard et al. 2017,
section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mmmed.section import Kind, Kinds

if TYPE_CHECKING:
    from mmmed.federation.updates import Arrays, SiteUpdate

__all__ = ["AGGREGATIONS", "Aggregation", "Mean", "Median", "MultiKrum", "TrimmedMean"]


class Aggregation(Kind):
    """How a round's updates become one.

    Attributes:
        needs_single_updates: whether it needs more of a round's updates than their sum.
        bounds_updates: whether one update can move the result only so far, however large it is.
    """

    needs_single_updates: ClassVar[bool] = True
    bounds_updates: ClassVar[bool] = True

    @property
    def least_updates(self) -> int:
        """How many updates the rule needs."""
        return 1

    @property
    def withstands(self) -> int:
        """How many sites may be hostile: a round goes on without so many of its sites."""
        return 0

    def for_updates(self, count: int) -> Aggregation:
        """This rule, or the strongest that is left for so few updates.

        Else one site whose update is refused, or that is gone, would stop every round of a rule that needs it.
        """
        return self

    def combine(self, updates: Sequence[SiteUpdate]) -> Arrays:
        """One update of at least `least_updates`: float32, with the keys and shapes that each of them has."""
        combined: Arrays = self.load()(updates, **self.options())
        return combined


class Mean(Aggregation):
    """The mean by the updates' public weights."""

    needs_single_updates: ClassVar[bool] = False
    bounds_updates: ClassVar[bool] = False

    implementation: ClassVar[str] = "mmmed.federation.aggregation.mean:mean"

    kind: Literal["mean"] = "mean"


class Median(Aggregation):
    """The coordinate-wise median."""

    implementation: ClassVar[str] = "mmmed.federation.aggregation.median:median"

    kind: Literal["median"] = "median"


class TrimmedMean(Aggregation):
    """The coordinate-wise mean without the f largest and f smallest."""

    implementation: ClassVar[str] = "mmmed.federation.aggregation.trimmed_mean:trimmed_mean"

    kind: Literal["trimmed-mean"] = "trimmed-mean"
    hostile_sites: int = Field(0, ge=0, description="f: how many hostile sites it is to withstand")

    @property
    def least_updates(self) -> int:
        return 2 * self.hostile_sites + 1

    @property
    def withstands(self) -> int:
        return self.hostile_sites

    def for_updates(self, count: int) -> Aggregation:
        return self if count >= self.least_updates else Median()


class MultiKrum(Aggregation):
    """The mean of the n - f updates that are closest to their neighbours."""

    implementation: ClassVar[str] = "mmmed.federation.aggregation.multi_krum:multi_krum"

    kind: Literal["multi-krum"] = "multi-krum"
    hostile_sites: int = Field(0, ge=0, description="f: how many hostile sites it is to withstand")

    @property
    def least_updates(self) -> int:
        return 2 * self.hostile_sites + 3

    @property
    def withstands(self) -> int:
        return self.hostile_sites

    def for_updates(self, count: int) -> Aggregation:
        if count >= self.least_updates:
            return self
        return TrimmedMean(hostile_sites=self.hostile_sites).for_updates(count)


AGGREGATIONS = Kinds(Mean, Median, TrimmedMean, MultiKrum)
