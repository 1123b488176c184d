"""The private random domain: the Gaussian noise and the sampling masks that privacy rests on.

Two domains of randomness live in a private training run, and they never meet:

* *public*: initialisation, splits, augmentation. Seedable, so that a run can be repeated.
* *private*: the noise and the choice of patients. Whoever can repeat these can subtract the noise, so
  nothing here takes a seed, and no key outlives the call that drew it. There is no state that a fork,
  a pickle, a checkpoint, a log or a restored virtual machine could repeat.

Method: an AES-256-CTR keystream under a fresh operating-system key per call, turned into normals by the
Box-Muller transform in float64, released on a lattice so that the bits of a floating-point sum give
nothing away (Mironov 2012, "On significance of the least significant bits for differential privacy").
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from privacy.errors import NoiseError

_CHUNK = 1 << 16  # normals per thread at a time: its halves are torch's own grain for one thread
_WORD = 8  # bytes of keystream per uniform
_MASK_63 = (1 << 63) - 1
_MANTISSA, _ONE = (1 << 52) - 1, 0x3FF << 52  # 52 random bits below the exponent of 1.0: a uniform in [1, 2)
# Lattice step over noise standard deviation. Finer costs less noise (`noise_std`), but rounding errors of the
# normals, 2^-53 of their size, must stay far below a step.
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
    if noise_multiplier * math.sqrt(max(dimension, 0)) * _GRID_FRACTION > 0.5:
        raise NoiseError(
            f"A noise multiplier of {noise_multiplier:g} on {dimension} parameters needs a finer lattice than float64 "
            "gives. Train fewer parameters."
        )
    std = noise_multiplier * max_grad_norm
    while std < (
        needed := noise_multiplier * max_grad_norm * sensitivity_inflation(std, max_grad_norm, dimension)
    ):
        std = needed
    return std


class PrivateRandom:
    """Randomness that no seed reaches: every call draws under a fresh 256-bit key of the operating system.

    The uniforms behind a normal's size have 63 bits, so its tails reach 9.3 standard deviations: what a true
    normal has beyond, a mass of about 2^-63 a draw, is negligible beside any delta.
    """

    __slots__ = ()

    def normal(self, n: int) -> np.ndarray:
        """`n` independent standard normals, float64, shape [n]."""
        out = torch.empty(_count(n), dtype=torch.float64)
        normals, done = _Normals(n, torch.device("cpu")), 0
        while done < n:
            part = normals.take(n - done)
            out[done : done + part.numel()] = part
            done += part.numel()
        return out.numpy()

    def bernoulli(self, n: int, p: float) -> np.ndarray:
        """`n` independent coins that are true with probability `p` in [0, 1], bool, shape [n].

        `p` is met to 2^-64, rounded down: the true rate never exceeds the one that is accounted.
        """
        if not 0.0 <= p <= 1.0:
            raise NoiseError(f"The probability must be in [0, 1]. Found {p!r}.")
        if p == 1.0:
            return np.ones(_count(n), dtype=bool)
        words = np.frombuffer(_keystream().update(bytes(_WORD * _count(n))), dtype=np.uint64)
        return words < np.uint64(int(math.ldexp(p, 64)))

    def integers(self, n: int, below: int) -> np.ndarray:
        """`n` independent whole numbers in [0, below), uniform to below 2^-64, int64, shape [n]."""
        if not 0 < below < 1 << 32:
            raise NoiseError(f"The bound must be in [1, 2^32). Found {below!r}.")
        words = np.frombuffer(_keystream().update(bytes(_WORD * _count(n))), dtype=np.uint64)
        return (words % np.uint64(below)).astype(np.int64)

    @torch.no_grad()
    def add_gaussian_(self, tensors: torch.Tensor | Iterable[torch.Tensor], std: float) -> None:
        """Add N(0, std^2) to every coordinate, in place, and release it on the lattice gZ.

        The result is g (rint(x / g) + rint(std z / g)), z ~ N(0, 1), computed in float64 and only then
        rounded to the tensor's dtype (which is post-processing). Rounding before the noise can raise the
        sensitivity: see `sensitivity_inflation`.

        Args:
            tensors: one or several dense floating-point tensors of any shape, strides, dtype and device; several
                together take a fraction of the time that many small ones take apart.
            std: the noise's standard deviation (noise multiplier x clipping norm), in the tensors' unit.

        Raises:
            NoiseError: `std` is not above 0, or a tensor not real, dense and finite; all are left unchanged.
        """
        step = lattice_step(std)
        several = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
        for tensor in several:
            _check(tensor)
        sizes: dict[torch.device, int] = {}
        for tensor in several:
            sizes[_device(tensor)] = sizes.get(_device(tensor), 0) + tensor.numel()
        normals = {device: _Normals(size, device, std / step) for device, size in sizes.items()}
        scratch = {device: torch.empty_like(drawn.ready) for device, drawn in normals.items()}
        for tensor in several:
            flat = tensor.view(-1) if tensor.is_contiguous() else tensor.reshape(-1)
            done = 0
            while done < flat.numel():
                noise = normals[_device(tensor)].take(flat.numel() - done)
                part = flat[done : done + noise.numel()]
                lattice = scratch[_device(tensor)][: noise.numel()]
                lattice.copy_(part).mul_(1.0 / step).round_()  # exactly, since the step is a power of two
                part.copy_(lattice.add_(noise.round_()).mul_(step))
                done += noise.numel()
            if not tensor.is_contiguous():
                tensor.copy_(flat.view(tensor.shape))


def _check(tensor: torch.Tensor) -> None:
    if not tensor.is_floating_point() or tensor.layout != torch.strided:
        raise NoiseError(f"Noise needs a dense floating-point tensor. Found {tensor.dtype}, {tensor.layout}.")
    if tensor.numel() and not all(bool(torch.isfinite(end)) for end in torch.aminmax(tensor)):  # NaN spreads
        raise NoiseError(
            f"A sum to be released (shape {tuple(tensor.shape)}) holds NaN or infinity: noise cannot "
            "hide that. Check the learning rate and the inputs."
        )


def _device(tensor: torch.Tensor) -> torch.device:
    """Where its noise is computed: float64 is not to be had everywhere."""
    return tensor.device if tensor.device.type in ("cpu", "cuda") else torch.device("cpu")


def _count(n: int) -> int:
    if n < 0:
        raise NoiseError(f"The number of draws must be 0 or more. Found {n!r}.")
    return n


def _keystream() -> CipherContext:
    # A key is used for one call only, so the counter may start at zero.
    return Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()


class _Normals:
    """Normals of deviation `scale`, float64, by the Box-Muller transform of one keystream, each handed out once.

    Buffers are made once and reused from chunk to chunk: fresh ones cost as much as the arithmetic.

    Args:
        total: how many will be taken in all.
        device: where they are computed; the keystream is the CPU's.
        scale: their standard deviation.
    """

    def __init__(self, total: int, device: torch.device, scale: float = 1.0) -> None:
        self._half = (min(total, _CHUNK * torch.get_num_threads()) + 1) // 2
        size = 2 * self._half
        self._stream, self._scale = _keystream(), scale
        self._zeros = bytes(_WORD * size)
        self._keys = bytearray(_WORD * size + 15)  # the cipher wants room for a block
        self._radius = torch.empty(self._half, dtype=torch.float64, device=device)
        self.ready = torch.empty(size, dtype=torch.float64, device=device)
        self._used = size

    def take(self, n: int) -> torch.Tensor:
        """At least 1 and at most `n` (1 or more) normals, to be changed or copied before the next call."""
        if self._used == self.ready.numel():
            self._draw()
        out = self.ready[self._used : self._used + n]
        self._used += out.numel()
        return out

    def _draw(self) -> None:
        half, radius = self._half, self._radius
        self._stream.update_into(self._zeros, self._keys)
        words = torch.frombuffer(self._keys, dtype=torch.int64, count=2 * half).to(radius.device)
        # sqrt(-2 scale^2 log u), u in (0, 1]
        radius.copy_(words[:half].bitwise_and_(_MASK_63)).add_(1.0).mul_(2.0**-63)
        radius.log_().mul_(-2.0 * self._scale**2).sqrt_()
        angle = words[half:].bitwise_and_(_MANTISSA).bitwise_or_(_ONE).view(torch.float64).mul_(2.0 * math.pi)
        torch.cos(angle, out=self.ready[:half]).mul_(radius)
        torch.sin(angle, out=self.ready[half:]).mul_(radius)
        self._used = 0
