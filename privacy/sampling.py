"""Sampling of privacy units, each way with what the accounting may say about it.

Poisson, which the accounting assumes: every step takes each unit (a patient, by default) with probability q,
independently of every other unit and step. Batches therefore vary in size and may be empty; an empty batch is
still a step, which still gets its noise.

Partition: every unit is in exactly one batch of a pass, chosen independently of all others ("balls in bins"). That
amplifies, too (Chua et al. 2024, arXiv 2412.16802), but no accountant for it is at hand, so a pass must be charged
as one Gaussian mechanism at full rate: whatever batch a unit is in, no other step of the pass reads it.

Shuffling into batches of a fixed size is not offered: adding one unit moves others, so a unit's removal changes
more than one term of a sum, and the amplification that is often credited to it does not hold.
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
        _check(n_units, steps, random)
        if not 0.0 < sampling_rate <= 1.0:
            raise SamplingError(f"sampling_rate must be in (0, 1]. Found {sampling_rate!r}.")
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


class PartitionSampler:
    """Yields `steps` batches of unit indices that hold every unit once; each iteration is a fresh partition.

    Args:
        n_units: number of privacy units, 0 or more.
        steps: number of batches of a pass, 1 or more.
        random: the private random domain.

    Raises:
        SamplingError: a value is out of range or of the wrong kind.
    """

    def __init__(self, n_units: int, steps: int, random: PrivateRandom) -> None:
        _check(n_units, steps, random)
        if steps < 1:
            raise SamplingError("steps must be 1 or more: every unit is in one of them.")
        self.n_units, self.steps = int(n_units), int(steps)
        self._random = random

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the ascending unit indices of each step, int64 [batch size], possibly empty."""
        place = self._random.integers(self.n_units, self.steps)
        for step in range(self.steps):
            yield np.flatnonzero(place == step).astype(np.int64)


def _check(n_units: int, steps: int, random: PrivateRandom) -> None:
    for name, count in (("n_units", n_units), ("steps", steps)):
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 0:
            raise SamplingError(f"{name} must be a whole number, 0 or more. Found {count!r}.")
    if not isinstance(random, PrivateRandom):
        raise SamplingError(
            f"Masks are drawn from a PrivateRandom only, which no seed repeats. Found {random!r}."
        )
