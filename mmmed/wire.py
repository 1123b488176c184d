"""How tensors travel between a site and the server: one safetensors payload, no pickle, checked before use.

Encodings:
    float32   as they are, 4 bytes a value
    bfloat16  rounded to 8 bits of precision, 2 bytes a value
    int8      symmetric, one scale a row of the first axis (a tensor of fewer than two axes has one), 1 byte a value

Rounding a privatised update is post-processing: it costs no privacy (Dwork and Roth 2014, proposition 2.1). What int8
rounds away is not lost if the sender adds it to its next update (error feedback, Karimireddy et al. 2019, arXiv
1901.09847): see `client.error_feedback`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from mmmed.errors import WireError

Encoding = Literal["float32", "bfloat16", "int8"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_SCALE = "scale/"
_LEVELS = 127
MAX_RMS = 1e4  # no parameter or update of a network that learns comes near


def pack(tensors: Mapping[str, torch.Tensor], encoding: Encoding) -> bytes:
    """The tensors as bytes; their order is kept by name.

    Raises:
        WireError: a value is not finite (``not-finite``) or absurdly large (``too-large``).
    """
    _check_values(tensors)
    flat = {name: value.detach().to("cpu", torch.float32) for name, value in tensors.items()}
    if encoding == "int8":
        packed: dict[str, torch.Tensor] = {}
        for name, value in flat.items():
            packed[name], packed[_SCALE + name] = _quantise(value)
    else:
        packed = {name: value.to(_DTYPES[encoding]) for name, value in flat.items()}
    return save({name: value.contiguous() for name, value in packed.items()})


def unpack(data: bytes, like: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, torch.Tensor]:
    """The tensors that `pack` was given, up to its rounding: float32, on the CPU, in the order of ``like``.

    Args:
        data: what `pack` returned, in any encoding; not trusted.
        like: the shape that each tensor must have; None takes what there is.

    Raises:
        WireError: with its code, ``bad-payload``, ``keys-differ``, ``shape-differs``, ``dtype-differs``,
            ``not-finite`` or ``too-large``.
    """
    try:
        stored = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise WireError("bad-payload", f"not a safetensors payload: {error}") from error
    sent = {name for name in stored if not name.startswith(_SCALE)}
    if like is None:
        like = {name: tuple(stored[name].shape) for name in sorted(sent)}
    if sent != set(like):
        different = sorted(sent ^ set(like))
        raise WireError("keys-differ", f"parameters differ: {different[:3]} ({len(different)} in all)")
    tensors = {}
    for name, shape in like.items():
        if tuple(stored[name].shape) != tuple(shape):
            raise WireError(
                "shape-differs",
                f"parameter {name}: expected shape {tuple(shape)}. Found {tuple(stored[name].shape)}",
            )
        tensors[name] = _restore(name, stored)
    _check_values(tensors)
    return tensors


def _quantise(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    axes = tuple(range(1, value.dim())) if value.dim() > 1 else tuple(range(value.dim()))
    largest = value.abs().amax(axes) if value.numel() else value.new_zeros(_rows(value))
    scale = torch.where(largest > 0, largest / _LEVELS, torch.ones_like(largest))
    return (value / _along_rows(scale, value)).round().to(torch.int8), scale


def _restore(name: str, stored: Mapping[str, torch.Tensor]) -> torch.Tensor:
    value = stored[name]
    if value.dtype in _DTYPES.values():
        return value.to(torch.float32)
    scale = stored.get(_SCALE + name)
    known = scale is not None and scale.dtype == torch.float32 and scale.shape == _rows(value)
    if value.dtype != torch.int8 or scale is None or not known:
        raise WireError("dtype-differs", f"parameter {name}: {value.dtype} in no known encoding")
    return value.to(torch.float32) * _along_rows(scale, value)


def _rows(value: torch.Tensor) -> torch.Size:
    return value.shape[:1] if value.dim() > 1 else torch.Size()


def _along_rows(scale: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return scale.reshape(-1, *[1] * (value.dim() - 1)) if value.dim() > 1 else scale


def _check_values(tensors: Mapping[str, torch.Tensor]) -> None:
    for name, value in tensors.items():
        if not value.numel():
            continue
        flat = value.detach().float().reshape(-1)
        if float(torch.dot(flat, flat)) <= MAX_RMS**2 * len(flat):
            continue  # nearly always; what float32 cannot add up is looked at again
        square = float(flat.double().square().mean())
        if square != square or square == float("inf"):
            raise WireError("not-finite", f"parameter {name}: holds a value that is not finite")
        if square > MAX_RMS**2:
            raise WireError(
                "too-large",
                f"parameter {name}: root mean square {square**0.5:.3g}, at most {MAX_RMS:g} is taken",
            )
