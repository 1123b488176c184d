"""The coordinate-wise trimmed mean (Yin et al. 2018, arXiv 1803.01498, definition 2)."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.serverapp.strategy import FedTrimmedAvg

from mmmed.federation.aggregation.flower import WEIGHT, by_tensor
from mmmed.federation.updates import Arrays, SiteUpdate


def trimmed_mean(updates: Sequence[SiteUpdate], hostile_sites: int) -> Arrays:
    """The mean of each coordinate without its ``hostile_sites`` largest and as many smallest values."""
    # Flower cuts int(beta n) from each end
    cut = (hostile_sites + 0.5) / len(updates) if hostile_sites else 0.0
    return by_tensor(FedTrimmedAvg(weighted_by_key=WEIGHT, beta=cut), updates)
