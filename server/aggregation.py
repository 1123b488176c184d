"""Many sites' updates become one, by a rule of `mmmed.federation.aggregation`.

The robust rules are Flower's. They are given one tensor of all updates at a time, from disk, so that memory holds one
model and that tensor however many sites there are; Krum sees the updates only through their distances, so it is
given points of few dimensions that lie at the same distances.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg
from flwr.serverapp.strategy.multikrum import select_multikrum

from mmmed.federation.aggregation import Aggregation, Mean, Median, MultiKrum, TrimmedMean
from server.checkpoint import Arrays
from server.spool import Update

_WEIGHT = "weight"


def aggregate(updates: Sequence[Update], rule: Aggregation) -> Arrays:
    """One update from at least `rule.least_updates`; float32, with the keys and shapes that each of them has."""
    match rule:
        case Mean():
            return mean(updates)
        case MultiKrum():
            return mean([updates[i] for i in _nearest(updates, rule.hostile_sites)])
        case Median():
            strategy: FedAvg = FedMedian(weighted_by_key=_WEIGHT)
        case TrimmedMean():
            # Flower cuts int(beta n) from each end
            cut = (rule.hostile_sites + 0.5) / len(updates) if rule.hostile_sites else 0.0
            strategy = FedTrimmedAvg(weighted_by_key=_WEIGHT, beta=cut)
        case _:
            raise TypeError(f"no code for the aggregation rule {rule.kind!r}")
    return {key: _reduced(strategy, [one.tensor(key) for one in updates]) for key in updates[0].keys}


def mean(updates: Sequence[Update]) -> Arrays:
    """The weighted mean, summed in float64."""
    weights = np.array([one.weight for one in updates])
    result: Arrays = {}
    for key in updates[0].keys:
        total = np.float64(0)
        for update, share in zip(updates, weights / weights.sum(), strict=True):
            total = total + update.tensor(key).astype(np.float64) * share
        result[key] = np.asarray(total, dtype=np.float32)
    return result


def _reduced(strategy: FedAvg, tensors: Sequence[np.ndarray]) -> np.ndarray:
    replies = [Message(content, 0, MessageType.TRAIN) for content in _contents(tensors)]
    arrays, _ = strategy.aggregate_train(0, replies)
    if arrays is None:
        raise RuntimeError(f"{type(strategy).__name__} returned nothing for valid updates")
    return np.asarray(arrays["tensor"].numpy(), dtype=np.float32)


def _nearest(updates: Sequence[Update], hostile: int) -> list[int]:
    """Which updates Flower's Multi-Krum selects, n - f of them."""
    gram = np.zeros((len(updates), len(updates)))
    for key in updates[0].keys:
        flat = np.stack([one.tensor(key).astype(np.float64).ravel() for one in updates])
        gram += flat @ flat.T
    values, vectors = np.linalg.eigh(gram)
    points = _contents(
        list(vectors * np.sqrt(np.maximum(values, 0)))
    )  # their Gram matrix is that of the updates
    chosen = select_multikrum(points, num_malicious_nodes=hostile, num_nodes_to_select=len(points) - hostile)
    return [i for i, point in enumerate(points) if any(point is one for one in chosen)]


def _contents(tensors: Sequence[np.ndarray]) -> list[RecordDict]:
    return [
        RecordDict(
            {
                "arrays": ArrayRecord({"tensor": Array(np.asarray(tensor))}),
                "metrics": MetricRecord({_WEIGHT: 1.0}),
            }
        )
        for tensor in tensors
    ]
