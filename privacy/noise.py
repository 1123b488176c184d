"""The private random domain: the Gaussian noise and the sampling masks that privacy rests on.

Two domains of randomness live in a private training run, and they never meet:

* *public*: initialisation, splits, augmentation. Seedable, so that a run can be repeated.
* *private*: the noise and the choice of patients. Whoever can repeat these can subtract the noise, so
  nothing here takes a seed, and no key outlives the call that drew it. There is no state that a fork,
  a pickle, a checkpoint, a log or a restored virtual machine could repeat.

Method: an AES-256-CTR keystream under a fresh operating-system key per call and thread, turned into whole numbers
by exact inversion (`privacy.discrete`), released on a lattice so that the bits of a floating-point sum give nothing
away (Mironov 2012, "On significance of the least significant bits for differential privacy").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any

import numpy as np
import torch

from privacy.discrete import CHUNK, DiscreteGaussian, discrete_std, keystream
from privacy.errors import NoiseError

_SHARE = 1 << 16  # coordinates that are worth a thread
_WORD = 8  # bytes of keystream per uniform
# Lattice step over noise standard deviation. Finer costs less noise (`noise_std`), but more time a draw, and sums must
# stay whole in float64.
_GRID_FRACTION = 2.0**-24


def lattice_step(std: float) -> float:
    """Step g = 2^floor(log2(2^-24 std)) of the lattice for noise of standard deviation `std`."""
    if not (math.isfinite(std) and std > 0):
        raise NoiseError(f"The noise standard deviation must be a finite number above 0. Found {std!r}.")
    return 2.0 ** math.floor(math.log2(_GRID_FRACTION * std))


def sensitivity_inflation(std: float, max_grad_norm: float, dimension: int) -> float:
    """The factor 1 + g sqrt(d) / C by which rounding to the lattice can raise the sensitivity C of a sum.

    Rounding moves each of the d coordinates of two neighbouring sums by at most g/2 each. The factor is at most
    1.0006 for 10^8 parameters at a noise multiplier of 1; `noise_std` makes up for it.
    """
    if not (math.isfinite(max_grad_norm) and max_grad_norm > 0):
        raise NoiseError(f"The clipping norm must be a finite number above 0. Found {max_grad_norm!r}.")
    if dimension < 0:
        raise NoiseError(f"The number of coordinates must be 0 or more. Found {dimension!r}.")
    return 1.0 + lattice_step(std) * math.sqrt(dimension) / max_grad_norm


def noise_std(noise_multiplier: float, max_grad_norm: float, dimension: int) -> float:
    """The standard deviation that gives exactly `noise_multiplier` or more, rounding to the lattice included.

    Args:
        noise_multiplier: noise over sensitivity, as accounted for, above 0.
        max_grad_norm: clipping norm C, above 0.
        dimension: number of coordinates of the whole sum, over all tensors released with this noise.

    Returns:
        std, with std / (C sensitivity_inflation(std, C, dimension)) >= noise_multiplier.

    Raises:
        NoiseError: a value is out of range, or rounding would outweigh the clipping norm.
    """
    # The share by which rounding raises the sensitivity; from 1 on, the loop below may never end.
    if noise_multiplier * math.sqrt(max(dimension, 0)) * _GRID_FRACTION > 0.5:
        raise NoiseError(
            f"A noise multiplier of {noise_multiplier:g} on {dimension} parameters needs a finer lattice than float64 "
            "gives. Train fewer parameters."
        )
    std = noise_multiplier * max_grad_norm
    while std < (  # a larger deviation may have a coarser lattice, which asks for more again
        needed := noise_multiplier * max_grad_norm * sensitivity_inflation(std, max_grad_norm, dimension)
    ):
        std = needed
    return std


class PrivateRandom:
    """Randomness that no seed reaches: every call draws under a fresh 256-bit key of the operating system."""

    __slots__ = ()

    def normal(self, n: int) -> np.ndarray:
        """`n` independent standard normals on the lattice 2^-24, float64, shape [n]."""
        return DiscreteGaussian(1 / _GRID_FRACTION).draw(_count(n)) * _GRID_FRACTION

    def bernoulli(self, n: int, p: float) -> np.ndarray:
        """`n` independent coins that are true with probability `p` in [0, 1], bool, shape [n].

        `p` is met to 2^-64, rounded down: the true rate never exceeds the one that is accounted.
        """
        if not 0.0 <= p <= 1.0:
            raise NoiseError(f"The probability must be in [0, 1]. Found {p!r}.")
        if p == 1.0:  # 2^64 is no 64-bit word
            return np.ones(_count(n), dtype=bool)
        words = np.frombuffer(keystream().update(bytes(_WORD * _count(n))), dtype=np.uint64)
        return words < np.uint64(int(math.ldexp(p, 64)))

    def integers(self, n: int, below: int) -> np.ndarray:
        """`n` independent whole numbers in [0, below), uniform to below 2^-64, int64, shape [n]."""
        if not 0 < below < 1 << 32:
            raise NoiseError(f"The bound must be in [1, 2^32). Found {below!r}.")
        words = np.frombuffer(keystream().update(bytes(_WORD * _count(n))), dtype=np.uint64)
        return (words % np.uint64(below)).astype(np.int64)

    @torch.no_grad()
    def add_gaussian_(self, tensors: torch.Tensor | Iterable[torch.Tensor], std: float) -> None:
        """Add N(0, std^2) to every coordinate, in place, and release it on the lattice gZ.

        The result is g (rint(x / g) + n) with a whole number n of a discrete Gaussian's law, which stands for
        N(0, (std / g)^2) by proof (`privacy.discrete`): nothing is drawn in floating point. The sum of the two is
        exact in float64 or rounded as a whole, and then rounded to the tensor's dtype: both are post-processing.
        Rounding before the noise can raise the sensitivity: see `sensitivity_inflation`.

        Args:
            tensors: one or several dense floating-point tensors of any shape, strides, dtype and device; several
                together take a fraction of the time that many small ones take apart.
            std: the noise's standard deviation (noise multiplier x clipping norm), in the tensors' unit.

        Raises:
            NoiseError: `std` is not above 0, or a tensor not real, dense and finite; all are left unchanged.
        """
        step = lattice_step(std)
        several = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
        by_device: dict[torch.device, list[Any]] = {}
        vectors = [_vector(tensor) for tensor in several]
        for vector in vectors:
            array = vector.numpy() if _library(vector.device) is np else vector
            by_device.setdefault(vector.device, []).append(array)
        for device, arrays in by_device.items():  # all of them before any is changed
            _check_finite(arrays, device)
        for device, arrays in by_device.items():
            shares = _shares(arrays, torch.get_num_threads())
            if len(shares) == 1:
                _release(shares[0], std, step, device)
            else:
                with ThreadPoolExecutor(len(shares)) as pool:
                    list(pool.map(_release, shares, repeat(std), repeat(step), repeat(device)))
        for tensor, vector in zip(several, vectors, strict=True):
            if vector.data_ptr() != tensor.data_ptr():
                tensor.copy_(vector.view(tensor.shape))


def _vector(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's numbers as a vector where float64 is to be had, in a type that numpy has: a view if it can be."""
    if not tensor.is_floating_point() or tensor.layout != torch.strided:
        raise NoiseError(f"Noise needs a dense floating-point tensor. Found {tensor.dtype}, {tensor.layout}.")
    known = tensor.dtype in (torch.float32, torch.float64)
    device = tensor.device if tensor.device.type in ("cpu", "cuda") else torch.device("cpu")
    return tensor.detach().to(device, tensor.dtype if known else torch.float64).reshape(-1)


def _library(device: torch.device) -> Any:
    """Elementwise functions, of the same names in both libraries.

    On a CPU numpy's are the faster ones, and they run beside each other in threads.
    """
    return np if device.type == "cpu" else torch


def _check_finite(arrays: list[Any], device: torch.device) -> None:
    for array in arrays:
        if not bool(_library(device).isfinite(array).all()):
            raise NoiseError(
                f"A sum to be released ({len(array)} coordinates) holds NaN or infinity: noise cannot hide that. "
                "Check the learning rate and the inputs."
            )


def _shares(arrays: list[Any], most: int) -> list[list[Any]]:
    """All coordinates, in order, in at most `most` shares; each but the last is worth a thread."""
    size = max(_SHARE, math.ceil(sum(map(len, arrays)) / most))
    shares: list[list[Any]] = [[]]
    room = size
    for array in arrays:
        while len(array):
            if room == 0:
                shares.append([])
                room = size
            shares[-1].append(array[:room])
            array, room = array[room:], room - len(shares[-1][-1])
    return shares


def _release(arrays: list[Any], std: float, step: float, device: torch.device) -> None:
    """x <- g (rint(x / g) + n) for every coordinate, in place."""
    library, noise = _library(device), DiscreteGaussian(discrete_std(std / step))
    place = device.type if device.type == "cpu" else device  # numpy knows the name alone
    # Float64 has all whole numbers up to 2^53; the tensor's own type would round each step of the computation.
    scratch = library.empty(CHUNK, dtype=library.float64, device=place)
    for part, drawn in _beside(arrays, noise.chunks(sum(map(len, arrays)))):
        lattice = scratch[: len(drawn)]
        lattice[:] = part
        library.multiply(lattice, 1.0 / step, out=lattice)  # exactly, since the step is a power of two
        library.round(lattice, out=lattice)
        library.add(lattice, library.asarray(drawn, device=place), out=lattice)
        library.multiply(lattice, step, out=lattice)
        part[:] = lattice


def _beside(arrays: list[Any], draws: Iterator[np.ndarray]) -> Iterator[tuple[Any, np.ndarray]]:
    """Consecutive parts of all vectors, each with as many draws, to be used before the next."""
    ready = np.empty(0, np.int64)
    for array in arrays:
        while len(array):
            if not len(ready):
                ready = next(draws)
            part = array[: len(ready)]
            yield part, ready[: len(part)]
            array, ready = array[len(part) :], ready[len(part) :]


def _count(n: int) -> int:
    if n < 0:
        raise NoiseError(f"The number of draws must be 0 or more. Found {n!r}.")
    return n
