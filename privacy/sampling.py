"""Poisson sampling of privacy units: the sampler that the accounting assumes.

Every step takes each unit (a patient, by default) with probability q, independently of every other unit and
step. Batches therefore vary in size and may be empty; an empty batch is still a step, which still gets its
noise. Shuffled or fixed-size batches do not have the amplification that the accountant credits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from privacy.errors import SamplingError
from privacy.noise import PrivateRandom


class PoissonSampler:
    """Yields `steps` Poisson batches of unit indices; each iteration over it is a fresh, independent pass.

    Args:
        n_units: number of privacy units (patients) at this site, 0 or more. It is private.
        sampling_rate: q in (0, 1], the probability of each unit in each step, exactly as accounted for.
        steps: number of steps, 0 or more.
        random: the private random domain.

    Raises:
        SamplingError: a value is out of range or of the wrong kind.
    """

    def __init__(self, n_units: int, sampling_rate: float, steps: int, random: PrivateRandom) -> None:
        for name, count in (("n_units", n_units), ("steps", steps)):
            if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 0:
                raise SamplingError(f"{name} must be a whole number, 0 or more. Found {count!r}.")
        if not 0.0 < sampling_rate <= 1.0:
            raise SamplingError(f"sampling_rate must be in (0, 1]. Found {sampling_rate!r}.")
        if not isinstance(random, PrivateRandom):
            raise SamplingError(
                f"Masks are drawn from a PrivateRandom only, which no seed repeats. Found {random!r}."
            )
        self.n_units = int(n_units)
        self.sampling_rate = float(sampling_rate)
        self.steps = int(steps)
        self._random = random

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the ascending unit indices of each step, int64 [batch size], possibly empty."""
        for _ in range(self.steps):
            yield np.flatnonzero(self._random.bernoulli(self.n_units, self.sampling_rate)).astype(np.int64)
