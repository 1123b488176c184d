"""The site's half of SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378, algorithm 1, option II).

The site's control variate is made from the update that it released, so under differential privacy it is
post-processing of a private result and reads no record.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from client.carried import Carried

Tensors = Mapping[str, torch.Tensor]


class Scaffold:
    """One round's control variates at one site.

    Args:
        folder: where the site keeps its own control variate in this run.
        server_round: the round.
        control: c, the server's control variate, by parameter name.
    """

    def __init__(self, folder: Path, server_round: int, control: Tensors) -> None:
        self._carried = Carried(folder)
        self._round = server_round
        self._control = control
        self._own = self._carried.before(server_round, control)

    @property
    def drift(self) -> dict[str, torch.Tensor]:
        """c - c_i: what every local gradient is corrected by, by parameter name."""
        return {name: value - self._own[name] for name, value in self._control.items()}

    def finish(self, update: Tensors, steps: int, learning_rate: float) -> None:
        """Keep c_i - c - update / (steps x learning rate) for the next round."""
        factor = 1 / (steps * learning_rate)
        own = {n: self._own[n] - value - update[n] * factor for n, value in self._control.items()}
        self._carried.write(self._round, own)
