"""The coordinate-wise median (Yin et al. 2018, arXiv 1803.01498, definition 1)."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.serverapp.strategy import FedMedian

from mmmed.federation.aggregation.flower import WEIGHT, by_tensor
from mmmed.federation.updates import Arrays, SiteUpdate


def median(updates: Sequence[SiteUpdate]) -> Arrays:
    """The coordinate-wise median of the updates."""
    return by_tensor(FedMedian(weighted_by_key=WEIGHT), updates)
