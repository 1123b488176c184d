"""The mean by the updates' public weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mmmed.federation.updates import Arrays, SiteUpdate

_TOGETHER = 1_000_000  # values that are summed at once, or one tensor


def mean(updates: Sequence[SiteUpdate]) -> Arrays:
    """The weighted mean, summed in float64."""
    weights = np.array([one.weight for one in updates])
    shares = weights / weights.sum()
    result: Arrays = {}
    for keys in _parts(updates[0]):
        totals: list[np.ndarray] = []
        for update, share in zip(updates, shares, strict=True):
            weighed = [np.multiply(one, share, dtype=np.float64) for one in update.tensors(keys)]
            if totals:
                for total, more in zip(totals, weighed, strict=True):
                    total += more
            else:
                totals = [np.asarray(one) for one in weighed]
        result |= {key: total.astype(np.float32) for key, total in zip(keys, totals, strict=True)}
    return result


def _parts(update: SiteUpdate) -> Iterator[list[str]]:
    """The keys, as many together as are small: an update is opened once a part."""
    part: list[str] = []
    size = 0
    for key in update.keys:
        own = update.tensor(key).size
        if part and size + own > _TOGETHER:
            yield part
            part, size = [], 0
        part, size = [*part, key], size + own
    if part:
        yield part
