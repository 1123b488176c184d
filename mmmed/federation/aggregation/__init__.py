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
    """

    needs_single_updates: ClassVar[bool] = True

    @property
    def least_updates(self) -> int:
        """How many updates the rule needs."""
        return 1

    def combine(self, updates: Sequence[SiteUpdate]) -> Arrays:
        """One update of at least `least_updates`: float32, with the keys and shapes that each of them has."""
        combined: Arrays = self.load()(updates, **self.options())
        return combined


class Mean(Aggregation):
    """The mean by the updates' public weights."""

    needs_single_updates: ClassVar[bool] = False

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


class MultiKrum(Aggregation):
    """The mean of the n - f updates that are closest to their neighbours."""

    implementation: ClassVar[str] = "mmmed.federation.aggregation.multi_krum:multi_krum"

    kind: Literal["multi-krum"] = "multi-krum"
    hostile_sites: int = Field(0, ge=0, description="f: how many hostile sites it is to withstand")

    @property
    def least_updates(self) -> int:
        return 2 * self.hostile_sites + 3


AGGREGATIONS = Kinds(Mean, Median, TrimmedMean, MultiKrum)
