"""SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378, algorithm 1, option II).

Every local gradient is corrected by c - c_i, the server's and the site's control variates. The site's moves by
-c - update / (local steps x learning rate). Both terms are known to the server from what the site released, so the
server keeps the mean c itself and no site sends anything but its number of steps. Made from privatised updates, the
control variates are post-processing: they cost no privacy and read no record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmmed.errors import ConfigError
from mmmed.federation.aggregation.mean import mean
from mmmed.federation.round_store import RoundStore
from mmmed.federation.strategies.base import AtSite, Combined, Halves, SiteRound, Tensors
from mmmed.federation.strategies.fedavg import FedAvgServer
from mmmed.federation.updates import Arrays, SiteUpdate

if TYPE_CHECKING:
    from mmmed.config import RunConfig

CONTROL = "control"
STEPS = "local-steps"
_MAX_STEPS = 1e6


class ScaffoldServer(FedAvgServer):
    """Plain averaging that also keeps c, zero before round 1."""

    def __init__(self, section: Any, run: RunConfig, initial: Arrays) -> None:
        super().__init__(section, run, initial)
        self._control = {key: np.zeros_like(value) for key, value in initial.items()}

    def extras(self) -> dict[str, Arrays]:
        return {CONTROL: self._control}

    def accepts(self, metrics: Mapping[str, float]) -> bool:
        return 1 <= metrics.get(STEPS, 0) <= _MAX_STEPS

    def step(self, combined: Combined) -> Arrays:
        rate = self.run.training.learning_rate
        self._control = next_control(
            self._control, combined.updates, asked=combined.asked, learning_rate=rate
        )
        return super().step(combined)

    def state(self) -> dict[str, Arrays]:
        return super().state() | {CONTROL: self._control}

    def restore(self, state: Mapping[str, Arrays]) -> None:
        super().restore(state)
        self._control = state[CONTROL]


def next_control(
    control: Arrays, updates: Sequence[SiteUpdate], *, asked: int, learning_rate: float
) -> Arrays:
    """The server's control variate after a round: c - |S|/N (c + mean of update / (K lr)).

    SCAFFOLD (arXiv 1910.06378), algorithm 1, option II; N are the sites asked and S those whose update counts.

    Args:
        control: c before the round, by tensor.
        updates: of S, each with its K local steps among its metrics; at least one.
        asked: N.
        learning_rate: lr, of the sites' steps.
    """
    directions = mean([one.scaled(1 / (learning_rate * one.metrics[STEPS])) for one in updates])
    share = np.float32(len(updates) / asked)
    return {key: control[key] - share * (control[key] + directions[key]) for key in control}


class ScaffoldSite(AtSite):
    """One round's control variates at one site."""

    wants = (CONTROL,)

    def __init__(self, section: Any, about: SiteRound) -> None:
        super().__init__(section, about)
        self._rate = about.run.training.learning_rate
        self._control = about.extras[CONTROL]
        expected = {name: value.shape for name, value in about.model.items()}
        if {name: value.shape for name, value in self._control.items()} != expected:
            raise ConfigError("the server's control variate is of other parameters than the model")
        self._kept = RoundStore(about.folder / CONTROL)
        self._own = self._kept.before(about.number, self._control)
        self._moves: dict[str, torch.Tensor] = {}

    def correct(self, parameters: Tensors) -> None:
        """-lr (c - c_i): the correction of a plain SGD step, as a step of its own."""
        for name, value in parameters.items():
            if name not in self._moves:
                self._moves[name] = self._rate * (self._control[name] - self._own[name]).to(value.device)
            value.sub_(self._moves[name])

    def finish(self, update: Tensors, steps: int) -> dict[str, float]:
        """Keep c_i - c - update / (steps x learning rate) for the next round."""
        factor = 1 / (steps * self._rate)
        own = {n: self._own[n] - value - update[n] * factor for n, value in self._control.items()}
        self._kept.write(self.about.number, own)
        return {STEPS: float(steps)}


SCAFFOLD = Halves(ScaffoldServer, ScaffoldSite)
