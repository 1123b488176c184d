"""The server's step: Flower's own strategies applied to what a round's updates became (`server.aggregation`).

Flower's strategy sees a single reply that carries the moved model, however many sites there are. FedAvg, FedAvgM
(Hsu et al. 2019, arXiv 1909.06335), FedAdam, FedYogi and FedAdagrad (Reddi et al. 2020, arXiv 2003.00295, algorithm 2)
depend on the replies only through it.
"""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvgM, FedYogi
from flwr.serverapp.strategy.fedopt import FedOpt

from mmmed.federation.strategies import FedAvgM as WithMomentum
from mmmed.federation.strategies import Strategy
from server.checkpoint import Arrays

_ADAPTIVE: dict[str, type[FedOpt]] = {"fedadam": FedAdam, "fedyogi": FedYogi, "fedadagrad": FedAdagrad}


class ServerOptimizer:
    """Turns (global model, a round's update) into the next global model; its moments can be saved."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = _strategy(strategy)
        self._keys: list[str] = []

    def step(self, server_round: int, current: Arrays, update: Arrays) -> Arrays:
        """One step of Flower's strategy; ``current`` and ``update`` share keys and shapes."""
        strategy, self._keys = self._strategy, list(current)
        if isinstance(strategy, FedAvgM):
            strategy.current_arrays = to_record(current)
        else:
            strategy.current_arrays = dict(current)
        content = RecordDict(
            {
                "arrays": to_record({key: current[key] + update[key] for key in current}),
                "metrics": MetricRecord({"weight": 1.0}),
            }
        )
        stepped, _ = strategy.aggregate_train(server_round, [Message(content, 0, MessageType.TRAIN)])
        if stepped is None:
            raise RuntimeError(f"{type(strategy).__name__} returned no model for one valid reply")
        # some of Flower's steps are computed in float64
        return {key: np.asarray(stepped[key].numpy(), dtype=np.float32) for key in current}

    def moments(self) -> dict[str, Arrays]:
        """What the strategy remembers between rounds: ``momentum``, or ``m`` and ``v``; empty for FedAvg."""
        if isinstance(self._strategy, FedAvgM):
            vector = self._strategy.momentum_vector
            return {} if vector is None else {"momentum": dict(zip(self._keys, vector, strict=True))}
        found = {"m": self._strategy.m_t, "v": self._strategy.v_t}
        return {name: dict(arrays) for name, arrays in found.items() if arrays}

    def restore(self, keys: list[str], moments: dict[str, Arrays]) -> None:
        """Put `moments` of an earlier process back; ``keys`` gives the model's order of parameters."""
        self._keys = keys
        if isinstance(self._strategy, FedAvgM):
            if "momentum" in moments:
                self._strategy.momentum_vector = [moments["momentum"][key] for key in keys]
            return
        self._strategy.m_t, self._strategy.v_t = moments.get("m"), moments.get("v")


def to_record(arrays: Arrays) -> ArrayRecord:
    """Arrays as a Flower record."""
    return ArrayRecord({key: Array(np.asarray(value)) for key, value in arrays.items()})


def _strategy(strategy: Strategy) -> FedAvgM | FedOpt:
    rate = strategy.server_learning_rate
    if strategy.kind in _ADAPTIVE:
        return _ADAPTIVE[strategy.kind](weighted_by_key="weight", eta=rate)
    momentum = (
        strategy.momentum if isinstance(strategy, WithMomentum) else 0.0
    )  # with 0 and rate 1 it is FedAvg
    return FedAvgM(weighted_by_key="weight", server_learning_rate=rate, server_momentum=momentum)
