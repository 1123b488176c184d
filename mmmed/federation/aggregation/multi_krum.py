"""Multi-Krum (Blanchard et al. 2017, section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from flwr.serverapp.strategy.multikrum import select_multikrum

from mmmed.federation.aggregation.flower import contents
from mmmed.federation.aggregation.mean import mean
from mmmed.federation.updates import Arrays, SiteUpdate


def multi_krum(updates: Sequence[SiteUpdate], hostile_sites: int) -> Arrays:
    """The weighted mean of the updates that Flower selects, all but ``hostile_sites`` of them."""
    return mean([updates[i] for i in _nearest(updates, hostile_sites)])


def _nearest(updates: Sequence[SiteUpdate], hostile: int) -> list[int]:
    """Which updates are selected: Krum sees them only through their distances.

    So it is given points of few dimensions that lie at the same distances.
    """
    gram = np.zeros((len(updates), len(updates)))
    for key in updates[0].keys:
        flat = np.stack([one.tensor(key).astype(np.float64).ravel() for one in updates])
        gram += flat @ flat.T
    values, vectors = np.linalg.eigh(gram)
    points = contents(
        list(vectors * np.sqrt(np.maximum(values, 0)))
    )  # their Gram matrix is that of the updates
    chosen = select_multikrum(points, num_malicious_nodes=hostile, num_nodes_to_select=len(points) - hostile)
    return [i for i, point in enumerate(points) if any(point is one for one in chosen)]
