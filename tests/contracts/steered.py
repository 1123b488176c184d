"""A toy strategy, as somebody outside the project would write it: the server steers every local step of a site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from mmmed.federation.strategies import Strategy
from mmmed.federation.strategies.base import AtServer, AtSite, Combined, Halves, Tensors
from mmmed.federation.updates import Arrays


class Steered(Strategy):
    """In round r every local step moves every parameter by r times ``push``."""

    implementation: ClassVar[str] = "tests.contracts.steered:STEERED"

    kind: Literal["steered"] = "steered"
    push: float = 0.01


class SteeredServer(AtServer):
    def __init__(self, section: Steered, run: Any, initial: Arrays) -> None:
        super().__init__(section, run, initial)
        self._way = {key: np.full_like(value, section.push) for key, value in initial.items()}

    def extras(self) -> dict[str, Arrays]:
        return {"way": self._way}

    def accepts(self, metrics: Mapping[str, float]) -> bool:
        return metrics.get("pushes", 0) > 0

    def step(self, combined: Combined) -> Arrays:
        self._way = {key: value + np.float32(self.section.push) for key, value in self._way.items()}
        return {key: value + combined.update[key] for key, value in combined.model.items()}

    def state(self) -> dict[str, Arrays]:
        return {"way": self._way}

    def restore(self, state: Mapping[str, Arrays]) -> None:
        self._way = state["way"]


class SteeredSite(AtSite):
    wants = ("way",)

    def correct(self, parameters: Tensors) -> None:
        for name, value in parameters.items():
            value.add_(self.about.extras["way"][name].to(value.device))

    def finish(self, update: Tensors, steps: int) -> dict[str, float]:
        return {"pushes": float(steps)}


STEERED = Halves(SteeredServer, SteeredSite)
