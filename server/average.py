"""The average of the global model over rounds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from server.checkpoint import Arrays

_NAME = "average"


class Average:
    """An exponential moving average with ``decay`` a round; with 0 it is the newest model.

    Polyak averaging (De et al. 2022, arXiv 2204.13650, section 3.4). Only released models are read: post-processing.
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._value: Arrays = {}

    def take(self, model: Arrays) -> None:
        """Take in the model after a round that changed it."""
        if self._decay:
            before = self._value or model
            self._value = {
                key: (self._decay * before[key] + (1 - self._decay) * value).astype(np.float32)
                for key, value in model.items()
            }

    def of(self, model: Arrays) -> Arrays:
        """What is evaluated and saved: the average, or ``model`` if there is none. Training uses the model itself."""
        return self._value or model

    def state(self) -> dict[str, Arrays]:
        """The average as a checkpoint stores it."""
        return {_NAME: self._value} if self._value else {}

    def restore(self, state: Mapping[str, Arrays]) -> None:
        """Load what `state` returned in an earlier process."""
        self._value = state.get(_NAME, {})
