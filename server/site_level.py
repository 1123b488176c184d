"""Privacy of whole sites in what the server releases, on top of what each site's patients have of their own.

Each round's sum of updates, clipped to a common norm, gets Gaussian noise (McMahan et al. 2018, arXiv 1710.06963); the
norm follows the median norm by a noised count (Andrew et al. 2021, arXiv 1905.03871, algorithm 1). Neighbouring runs
differ in one site's updates being nothing (zero-out adjacency, Kairouz et al. 2021, arXiv 2103.00039): who takes part
is public. It holds against whoever sees the released models, not against the server, which sees the updates.

With few sites it costs most of the signal: the noise of a round is ``site_noise_multiplier`` times as large as any one
site's update may be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mmmed.config import FederationConfig
from privacy.accounting import DpSgdEvent, epsilon
from privacy.noise import PrivateRandom, noise_std
from server.checkpoint import Arrays
from server.update_store import Update, by_name

_NAME, _NORM = "site-level", "max-norm"  # in a checkpoint
_QUANTILE = 0.5
_RATE = 0.2  # of the geometric update of the norm
_COUNT_SHARE = 0.1  # of the privacy loss; the sum of updates has the rest


class SiteLevel:
    """Sums a round's updates privately; ``max_norm`` is the norm that the next round clips to.

    It bounds every update itself, and who counts may not depend on the others: none is an outlier.
    """

    def __init__(self, config: FederationConfig) -> None:
        self._config = config
        self.max_norm = config.site_max_norm

    def choose(self, updates: Sequence[Update]) -> tuple[list[Update], set[int]]:
        """All updates, sorted by name of the site, and no outlier."""
        return by_name(updates), set()

    def combine(self, updates: Sequence[Update], asked: int) -> Arrays:
        """The noised sum of the clipped updates over the number of sites that were asked; adapts ``max_norm``."""
        # z^-2 = z_sum^-2 + (2 sigma_count)^-2 (Andrew et al., theorem 1)
        sum_noise = self._config.site_noise_multiplier / math.sqrt(1 - _COUNT_SHARE)
        count_std = self._config.site_noise_multiplier / math.sqrt(_COUNT_SHARE) / 2
        clipped = [one.scaled(min(1.0, self.max_norm / max(one.norm, 1e-30))) for one in updates]
        shapes = {key: clipped[0].tensor(key).shape for key in clipped[0].keys}
        std = noise_std(sum_noise, self.max_norm, sum(math.prod(shape) for shape in shapes.values()))
        result: Arrays = {}
        for key, shape in shapes.items():
            total = torch.zeros(shape, dtype=torch.float64)
            for one in clipped:
                total += torch.as_tensor(one.tensor(key).astype(np.float64))
            PrivateRandom().add_gaussian_(total, std)
            result[key] = np.asarray(total.numpy() / asked, dtype=np.float32)
        # A multiple of 1/2 lies on the noise's lattice, so that rounding to it does not raise the sensitivity.
        below = torch.tensor([sum((one.norm <= self.max_norm) - 0.5 for one in updates)], dtype=torch.float64)
        PrivateRandom().add_gaussian_(below, count_std)
        fraction = below.item() / asked + 0.5
        self.max_norm *= math.exp(-_RATE * (fraction - _QUANTILE))
        return result

    def state(self) -> dict[str, Arrays]:
        """The clipping norm as a checkpoint stores it."""
        return {_NAME: {_NORM: np.array(self.max_norm)}}

    def restore(self, state: Mapping[str, Arrays]) -> None:
        """Load what `state` returned in an earlier process."""
        self.max_norm = float(state[_NAME][_NORM])

    def statement(self, rounds: int) -> dict[str, Any]:
        """The site-level guarantee of the first ``rounds`` rounds together, for the record of the newest."""
        return {"site_level": self._stated(rounds)}

    def _stated(self, rounds: int) -> dict[str, Any]:
        event = DpSgdEvent(self._config.site_noise_multiplier, 1.0, rounds)
        return {
            "unit": "site",
            "adjacency": "zero-out",
            "holds_against": "whoever sees the released models; not the server",
            "mechanism": "Gaussian, adaptive clipping",
            "noise_multiplier": self._config.site_noise_multiplier,
            "delta": self._config.site_delta,
            "rounds": rounds,
            "epsilon": epsilon([event], self._config.site_delta),
        }
