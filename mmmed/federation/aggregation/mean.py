"""The mean by the updates' public weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmmed.federation.updates import Arrays, SiteUpdate


def mean(updates: Sequence[SiteUpdate]) -> Arrays:
    """The weighted mean, summed in float64."""
    weights = np.array([one.weight for one in updates])
    result: Arrays = {}
    for key in updates[0].keys:
        total = np.float64(0)
        for update, share in zip(updates, weights / weights.sum(), strict=True):
            total = total + update.tensor(key).astype(np.float64) * share
        result[key] = np.asarray(total, dtype=np.float32)
    return result
