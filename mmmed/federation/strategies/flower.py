"""A step of Flower's own strategies.

Flower's strategy sees a single reply that carries the moved model, however many sites there are. FedAvg, FedAvgM and
the three adaptive ones depend on the replies only through it.
"""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from mmmed.federation.aggregation.flower import WEIGHT
from mmmed.federation.strategies.base import Combined
from mmmed.federation.updates import Arrays


def flower_step(strategy: FedAvg, combined: Combined) -> Arrays:
    """The next model by a strategy that already knows the current one; it weights by `WEIGHT`."""
    model = combined.model
    content = RecordDict(
        {
            "arrays": to_record({key: model[key] + combined.update[key] for key in model}),
            "metrics": MetricRecord({WEIGHT: 1.0}),
        }
    )
    stepped, _ = strategy.aggregate_train(combined.number, [Message(content, 0, MessageType.TRAIN)])
    if stepped is None:
        raise RuntimeError(f"{type(strategy).__name__} returned no model for one valid reply")
    # some of Flower's steps are computed in float64
    return {key: np.asarray(stepped[key].numpy(), dtype=np.float32) for key in model}


def to_record(arrays: Arrays) -> ArrayRecord:
    """Arrays as a Flower record."""
    return ArrayRecord({key: Array(np.asarray(value)) for key, value in arrays.items()})
