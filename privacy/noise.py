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

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from privacy.errors import NoiseError

_CHUNK = 1 << 15  # values per thread at a time: what stays in the cache, and torch's own grain for one thread
_WORD = 8  # bytes of keystream per uniform
_MASK_63 = (1 << 63) - 1
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

    Uniforms have 63 bits, so the tails of `normal` reach 9.3 standard deviations: what a true normal has
    beyond, a mass of about 2^-63 a draw, is negligible beside any delta.
    """

    __slots__ = ()

    def normal(self, n: int) -> np.ndarray:
        """`n` independent standard normals, float64, shape [n]."""
        out = torch.empty(_count(n), dtype=torch.float64)
        stream, chunk = _keystream(), _chunk()
        for start in range(0, n, chunk):
            part = out[start : start + chunk]
            part.copy_(_normals(stream, part.numel()))
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

    @torch.no_grad()
    def add_gaussian_(self, tensor: torch.Tensor, std: float) -> None:
        """Add N(0, std^2) to every coordinate of `tensor`, in place, and release it on the lattice gZ.

        The result is g (rint(x / g) + rint(std z / g)), z ~ N(0, 1), computed in float64 and only then
        rounded to the tensor's dtype (which is post-processing). Rounding before the noise can raise the
        sensitivity: see `sensitivity_inflation`.

        Args:
            tensor: a dense floating-point tensor of any shape, strides, dtype and device.
            std: the noise's standard deviation (noise multiplier x clipping norm), in the tensor's unit.

        Raises:
            NoiseError: `std` is not above 0, or the tensor not real, dense and finite; it is left unchanged.
        """
        step = lattice_step(std)
        if not tensor.is_floating_point() or tensor.layout != torch.strided:
            raise NoiseError(
                f"Noise needs a dense floating-point tensor. Found {tensor.dtype}, {tensor.layout}."
            )
        if not bool(torch.isfinite(tensor).all()):
            raise NoiseError(
                f"A sum to be released (shape {tuple(tensor.shape)}) holds NaN or infinity: noise cannot "
                "hide that. Check the learning rate and the inputs."
            )
        flat = tensor.view(-1) if tensor.is_contiguous() else tensor.reshape(-1)
        device = tensor.device if tensor.device.type in ("cpu", "cuda") else torch.device("cpu")
        stream, chunk = _keystream(), _chunk()
        for start in range(0, flat.numel(), chunk):
            part = flat[start : start + chunk]
            noise = _normals(stream, part.numel()).mul_(std / step).round_()
            lattice = part.to(device, torch.float64, copy=True).div_(step).round_()
            part.copy_(lattice.add_(noise.to(device)).mul_(step))
        if not tensor.is_contiguous():
            tensor.copy_(flat.view(tensor.shape))


def _count(n: int) -> int:
    if n < 0:
        raise NoiseError(f"The number of draws must be 0 or more. Found {n!r}.")
    return n


def _chunk() -> int:
    return _CHUNK * torch.get_num_threads()


def _keystream() -> CipherContext:
    # A key is used for one call only, so the counter may start at zero.
    return Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()


def _normals(stream: CipherContext, n: int) -> torch.Tensor:
    """`n` standard normals, float64 [n], by the Box-Muller transform of 63-bit uniforms."""
    half = (n + 1) // 2
    if half == 0:
        return torch.empty(0, dtype=torch.float64)
    words = torch.frombuffer(bytearray(stream.update(bytes(2 * _WORD * half))), dtype=torch.int64)
    uniform = (words & _MASK_63).to(torch.float64)
    radius = uniform[:half].add_(1.0).mul_(2.0**-63).log_().mul_(-2.0).sqrt_()  # the uniform is in (0, 1]
    angle = uniform[half:].mul_(2.0 * math.pi * 2.0**-63)
    out = torch.empty(2 * half, dtype=torch.float64)
    torch.cos(angle, out=out[:half])
    torch.sin(angle, out=out[half:])
    out[:half].mul_(radius)
    out[half:].mul_(radius)
    return out[:n]
