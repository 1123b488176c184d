"""A convolution's weight gradient one kernel position (tap) at a time, as products of matrices.

The gradient at a tap is the outputs' gradients times the inputs that it saw. Positions where it saw only padding cost
nothing, and large weights on small maps, where the convolution kernels spend their time on laying out the weights,
cost a third to a tenth of theirs.
"""

from __future__ import annotations

import functools
import itertools
import math

import torch

Slices = tuple[slice, ...]
Taps = dict[int, tuple[Slices, Slices]]

_ALL = slice(None)


@functools.lru_cache(maxsize=1024)
def taps(
    kernel: torch.Size,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    inputs: torch.Size,
    outputs: torch.Size,
) -> Taps:
    """The outputs at which a tap, by its number in the kernel, sees inputs, and these inputs. Blind taps are left out.

    Args:
        kernel, stride, padding, dilation: of each dimension of the convolution.
        inputs, outputs: numbers of positions of each dimension.
    """
    seen = []
    for k, s, p, d, i, o in zip(kernel, stride, padding, dilation, inputs, outputs, strict=True):
        seen.append([_along(tap * d - p, s, i, o) for tap in range(k)])
    found = {}
    for number, places in enumerate(itertools.product(*seen)):
        outs, ins = (tuple(place[side] for place in places) for side in (0, 1))
        if all(place.stop > place.start for place in outs):
            found[number] = (outs, ins)
    return found


def _along(offset: int, stride: int, inputs: int, outputs: int) -> Slices:
    """The outputs of one dimension that see an input at `offset`, and these inputs."""
    first, last = max(0, -(offset // stride)), min(outputs - 1, (inputs - 1 - offset) // stride)
    return slice(first, last + 1), slice(first * stride + offset, last * stride + offset + 1, stride)


def gradients_by_tap(gradient: torch.Tensor, x: torch.Tensor, seen: Taps) -> torch.Tensor:
    """Each unit's weight gradient by tap, [P, taps, O, C], of [P, m, O, *L] and [P, m, C, *S], summed over m."""
    left, right = gradient.movedim(2, -1).contiguous(), x.movedim(2, -1).contiguous()
    units, outputs, inputs = len(left), left.shape[-1], right.shape[-1]
    found = left.new_empty(units, len(seen), outputs, inputs)
    for i, (outs, ins) in enumerate(seen.values()):
        a = left[(_ALL, _ALL, *outs)].reshape(units, -1, outputs)
        b = right[(_ALL, _ALL, *ins)].reshape(units, -1, inputs)
        torch.bmm(a.transpose(1, 2), b, out=found[:, i])
    return found


def in_order(rows: torch.Tensor, weight: torch.Size, seen: Taps) -> torch.Tensor:
    """Reorder gradients by tap, [..., taps O C], to the order of the weight, [..., O C K]; 0 at blind taps."""
    outputs, inputs, *kernel = weight
    parts = rows.view(*rows.shape[:-1], len(seen), outputs, inputs)
    whole = rows.new_zeros(*rows.shape[:-1], outputs, inputs, math.prod(kernel))
    whole[..., list(seen)] = parts.movedim(-3, -1)
    return whole.flatten(-3)
