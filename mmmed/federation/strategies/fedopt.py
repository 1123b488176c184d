"""FedAdam, FedYogi and FedAdagrad (Reddi et al. 2020, arXiv 2003.00295, algorithm 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedYogi
from flwr.serverapp.strategy.fedopt import FedOpt

from mmmed.federation.strategies.base import AtServer, Combined, Halves
from mmmed.federation.strategies.flower import WEIGHT, flower_step
from mmmed.federation.updates import Arrays

if TYPE_CHECKING:
    from mmmed.config import RunConfig


class FedOptServer(AtServer):
    """One of Flower's adaptive strategies."""

    flower: ClassVar[type[FedOpt]]

    def __init__(self, section: Any, run: RunConfig, initial: Arrays) -> None:
        super().__init__(section, run, initial)
        self._strategy = self.flower(weighted_by_key=WEIGHT, eta=section.server_learning_rate)

    def step(self, combined: Combined) -> Arrays:
        self._strategy.current_arrays = dict(combined.model)
        return flower_step(self._strategy, combined)

    def state(self) -> dict[str, Arrays]:
        found = {"m": self._strategy.m_t, "v": self._strategy.v_t}
        return {name: dict(arrays) for name, arrays in found.items() if arrays}

    def restore(self, state: Mapping[str, Arrays]) -> None:
        self._strategy.m_t, self._strategy.v_t = state.get("m"), state.get("v")


class FedAdamServer(FedOptServer):
    flower = FedAdam


class FedYogiServer(FedOptServer):
    flower = FedYogi


class FedAdagradServer(FedOptServer):
    flower = FedAdagrad


FEDADAM = Halves(FedAdamServer)
FEDYOGI = Halves(FedYogiServer)
FEDADAGRAD = Halves(FedAdagradServer)
