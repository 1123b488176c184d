"""Flower's own rules, applied to one tensor of all updates at a time.

The updates are read from disk, so that memory holds one model and one tensor of each update however many sites there
are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from mmmed.federation.updates import Arrays, SiteUpdate

WEIGHT = "weight"


def by_tensor(rule: FedAvg, updates: Sequence[SiteUpdate]) -> Arrays:
    """The updates combined by a rule of Flower that is separate for each coordinate. It weights by `WEIGHT`."""
    return {key: _reduced(rule, [one.tensor(key) for one in updates]) for key in updates[0].keys}


def contents(tensors: Sequence[npt.NDArray[np.floating]]) -> list[RecordDict]:
    """Each tensor as the content of a reply, all of one weight."""
    return [
        RecordDict(
            {
                "arrays": ArrayRecord({"tensor": Array(np.asarray(tensor))}),
                "metrics": MetricRecord({WEIGHT: 1.0}),
            }
        )
        for tensor in tensors
    ]


def _reduced(rule: FedAvg, tensors: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    replies = [Message(content, 0, MessageType.TRAIN) for content in contents(tensors)]
    arrays, _ = rule.aggregate_train(0, replies)
    if arrays is None:
        raise RuntimeError(f"{type(rule).__name__} returned nothing for valid updates")
    return np.asarray(arrays["tensor"].numpy(), dtype=np.float32)
