"""Aggregation rules: how a round's updates become one. Each is one section below.

Median and trimmed mean: Yin et al. 2018, arXiv 1803.01498, definitions 1 and 2. Multi-Krum: Blanchard et al. 2017,
section 4.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mmmed.section import Kind, Kinds

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


class Mean(Aggregation):
    """The mean by the updates' public weights."""

    needs_single_updates: ClassVar[bool] = False

    kind: Literal["mean"] = "mean"


class Median(Aggregation):
    """The coordinate-wise median."""

    kind: Literal["median"] = "median"


class TrimmedMean(Aggregation):
    """The coordinate-wise mean without the f largest and f smallest."""

    kind: Literal["trimmed-mean"] = "trimmed-mean"
    hostile_sites: int = Field(0, ge=0, description="f: how many hostile sites it is to withstand")

    @property
    def least_updates(self) -> int:
        return 2 * self.hostile_sites + 1


class MultiKrum(Aggregation):
    """The mean of the n - f updates that are closest to their neighbours."""

    kind: Literal["multi-krum"] = "multi-krum"
    hostile_sites: int = Field(0, ge=0, description="f: how many hostile sites it is to withstand")

    @property
    def least_updates(self) -> int:
        return 2 * self.hostile_sites + 3


AGGREGATIONS = Kinds(Mean, Median, TrimmedMean, MultiKrum)
