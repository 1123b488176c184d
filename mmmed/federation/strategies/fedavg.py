"""FedAvg, and FedAvgM with momentum at the server (Hsu et al. 2019, arXiv 1909.06335)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flwr.serverapp.strategy import FedAvgM

from mmmed.federation.strategies.base import AtServer, Combined, Halves
from mmmed.federation.strategies.flower import WEIGHT, flower_step, to_record
from mmmed.federation.updates import Arrays

if TYPE_CHECKING:
    from mmmed.config import RunConfig


class FedAvgServer(AtServer):
    """Flower's FedAvgM; without momentum and at rate 1 it is FedAvg."""

    momentum = 0.0

    def __init__(self, section: Any, run: RunConfig, initial: Arrays) -> None:
        super().__init__(section, run, initial)
        self._strategy = FedAvgM(
            weighted_by_key=WEIGHT,
            server_learning_rate=section.server_learning_rate,
            server_momentum=self.momentum,
        )

    def step(self, combined: Combined) -> Arrays:
        self._strategy.current_arrays = to_record(combined.model)
        return flower_step(self._strategy, combined)

    def state(self) -> dict[str, Arrays]:
        vector = self._strategy.momentum_vector
        return {} if vector is None else {"momentum": dict(zip(self.keys, vector, strict=True))}

    def restore(self, state: Mapping[str, Arrays]) -> None:
        if "momentum" in state:
            self._strategy.momentum_vector = [state["momentum"][key] for key in self.keys]


class FedAvgMServer(FedAvgServer):
    """FedAvg with momentum at the server."""

    def __init__(self, section: Any, run: RunConfig, initial: Arrays) -> None:
        self.momentum = section.momentum
        super().__init__(section, run, initial)


FEDAVG = Halves(FedAvgServer)
FEDAVGM = Halves(FedAvgMServer)
