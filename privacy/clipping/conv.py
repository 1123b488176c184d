"""Convolutions of one, two and three dimensions, and their transposes."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from privacy.clipping.book import Book
from privacy.clipping.linear import Product
from privacy.clipping.operators import autocast, rule, untracked
from privacy.clipping.taps import Taps, gradients_by_tap, in_order, taps
from privacy.clipping.units import Units
from privacy.clipping.use import Cost, Direct, Order, Use, as_it_is, scaled, spread, wide

_backward = torch.ops.aten.convolution_backward.default
# Relative rates on CPUs, as in `privacy.clipping.linear`.
_KEEP, _KEEP_BY_TAP = 75.0, 130.0
_GRAM = 3.0  # in float64
_UNFOLD = 5.0  # multiply-adds in the time that a number is copied into a patch
_ADD = 8.0  # multiply-adds in the time that two matrices' entries are added
# The convolution kernels lose to products tap by tap where a weight has this many numbers for each position.
_BY_TAP, _SUM_BY_TAP, _LARGE = 1 << 9, 1 << 15, 1 << 16

Sizes = int | tuple[int, ...] | list[int]


@dataclass(frozen=True)
class Geometry:
    """The weight's shape and the settings of a convolution."""

    weight: torch.Size
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    transposed: bool
    output_padding: list[int]
    groups: int

    def weight_gradient(self, gradient: torch.Tensor, x: torch.Tensor, copies: int = 1) -> torch.Tensor:
        """The gradient of the weight, for `copies` independent weights side by side in the channels."""
        weight = x.new_empty(1).expand(copies * self.weight[0], *self.weight[1:])  # only its shape is read
        out: torch.Tensor = _backward(
            gradient, x, weight, None, self.stride, self.padding, self.dilation, self.transposed,
            self.output_padding, copies * self.groups, [False, True, False],
        )[1]  # fmt: skip
        return out

    @property
    def pointwise(self) -> bool:
        plain = not self.transposed and self.groups == 1 and not any(self.padding)
        return plain and all(size == 1 for size in (*self.weight[2:], *self.stride))

    @property
    def unfolds(self) -> bool:
        """Whether the convolution is a matrix product of unfolded patches."""
        return not self.transposed and self.groups == 1

    def patches(self, x: torch.Tensor) -> torch.Tensor:
        """What each output of x [N, C, *S] sees, [N, L, K C]: channels last, so that they are copied together."""
        sides = [side for size in reversed(self.padding) for side in (size, size)]
        x = F.pad(x.movedim(1, -1), [0, 0, *sides])
        sizes = zip(self.weight[2:], self.dilation, self.stride, strict=True)
        for dimension, (kernel, dilation, stride) in enumerate(sizes, start=1):
            x = x.unfold(dimension, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
        n = len(self.stride)  # x is now a view [N, *L, C, *K]
        return x.movedim(n + 1, -1).flatten(1, n).flatten(2)


@dataclass(frozen=True)
class Convolution(Use):
    """gradient [R, m, O, *L] of the output and input x [R, m, C, *S]; m images a record.

    Many units' gradients at once are one grouped convolution or, for a large weight on a small map, one product a tap.
    """

    gradient: torch.Tensor
    x: torch.Tensor
    geometry: Geometry

    def per_unit(self, units: Units) -> torch.Tensor:
        if units.even:
            return self._of_each(self.gradient, self.x, units.count)
        spans = units.spans()  # a grouped convolution wants as many images of each unit
        return torch.cat([self._of_each(self.gradient[rows], self.x[rows], 1) for rows in spans])

    def order(self) -> Order:
        if not self._by_tap:
            return as_it_is
        return functools.partial(in_order, weight=self.geometry.weight, seen=self._taps)

    def weighted(self, factors: torch.Tensor) -> torch.Tensor:
        gradient, x = scaled(self.gradient, factors), wide(self.x)
        if self._small_map(_SUM_BY_TAP) and x.device.type == "cpu":
            found = gradients_by_tap(gradient.flatten(0, 1)[None], x.flatten(0, 1)[None], self._taps)
            return in_order(found.flatten(), self.geometry.weight, self._taps)
        return self.geometry.weight_gradient(gradient.flatten(0, 1), x.flatten(0, 1))

    def _of_each(self, gradient: torch.Tensor, x: torch.Tensor, count: int) -> torch.Tensor:
        """Of each of `count` units with equally many records."""
        gradient, x = (t.reshape(count, -1, *t.shape[2:]) for t in (gradient, x))  # [P, k m, C, *S]
        if self._by_tap:
            return gradients_by_tap(gradient, x, self._taps).flatten(1)
        # side by side in the channels of one grouped convolution
        gradient, x = (t.transpose(0, 1).flatten(1, 2) for t in (gradient, x))
        return self.geometry.weight_gradient(gradient, x, count).reshape(count, -1)

    @property
    def _by_tap(self) -> bool:
        """Whether the units' gradients are found tap by tap."""
        return self._small_map(_BY_TAP) and self.geometry.weight.numel() >= _LARGE

    def _small_map(self, ratio: int) -> bool:
        """Whether the weight has `ratio` numbers for each position of an image."""
        numbers, positions = self.geometry.weight.numel(), math.prod(self.gradient.shape[3:])
        return self.geometry.unfolds and numbers >= ratio * positions

    @property
    def _taps(self) -> Taps:
        geometry = self.geometry
        return taps(
            geometry.weight[2:], tuple(geometry.stride), tuple(geometry.padding), tuple(geometry.dilation),
            self.x.shape[3:], self.gradient.shape[3:],
        )  # fmt: skip

    def cost(self, units: Units) -> Cost:
        weight = self.geometry.weight
        # The kernel is laid once on every output, or every input of a transposed convolution.
        positions = math.prod((self.x if self.geometry.transposed else self.gradient).shape[3:])
        length = positions * self.x.shape[1] * units.records / units.count
        patch = math.prod(weight[1:])
        numel = weight.numel()
        gradient, keep = length * numel, (_KEEP_BY_TAP if self._by_tap else _KEEP) * numel
        if not self.geometry.unfolds:
            return Cost(gradient, keep)
        if self._dense(units):
            padded, outputs = (math.prod(t) for t in self._padded_sizes())
            grams = _GRAM * (padded**2 * weight[1] + outputs**2 * weight[0])
            return Cost(gradient, keep, grams + _ADD * outputs**2 * math.prod(weight[2:]))
        return Cost(gradient, keep, ghost=_GRAM * length * (length * (weight[0] + patch) + _UNFOLD * patch))

    def as_product(self) -> Product:
        """This pointwise convolution as a linear layer over its positions."""
        left, right = (t.flatten(3).transpose(2, 3).flatten(1, 2) for t in (self.gradient, self.x))
        return Product(left, right)

    def ghost(self, units: Units) -> torch.Tensor:
        if self._dense(units):
            return self._ghost_by_shifts()
        outputs = self.gradient.flatten(3).transpose(2, 3).flatten(1, 2)  # [R, m L, O]
        patches = self.geometry.patches(self.x.flatten(0, 1))
        return Product(outputs, patches.reshape(*outputs.shape[:2], -1)).ghost(units)

    def reach(self, units: Units) -> torch.Tensor:
        """A bound from the fact that each kernel position sees every input at most once."""
        seen = math.prod(self.geometry.weight[2:])
        return seen * spread(self.gradient, units) * spread(self.x, units)

    def _dense(self, units: Units) -> bool:
        """Whether neighbouring patches overlap as shifts of one image: one 2D image a unit, steps of one."""
        geometry = self.geometry
        single = self.x.shape[1] == 1 and units.even == 1
        return (
            single
            and len(geometry.stride) == 2
            and all(s == 1 for s in (*geometry.stride, *geometry.dilation))
        )

    def _padded_sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Of the padded input, and of the output in rows as wide as the padded input's."""
        (high, wide_), (rows, columns) = self.geometry.padding, self.gradient.shape[3:]
        padded = (self.x.shape[3] + 2 * high, self.x.shape[4] + 2 * wide_)
        return padded, (1, (rows - 1) * padded[1] + columns)

    def _ghost_by_shifts(self) -> torch.Tensor:
        """The Gram matrix of all patches as a sum of shifted Gram matrices of the image: nothing is unfolded.

        With output (i, j) numbered i * width + j, its patch's pixel (a, b) has number + a * width + b. The
        numbers between two rows of outputs are no outputs: their gradient is 0.
        """
        (_, width), (_, last) = self._padded_sizes()
        high, wide_ = self.geometry.padding
        image = F.pad(self.x[:, 0].double(), (wide_, wide_, high, high)).flatten(2)
        outputs = self.gradient[:, 0].double()  # float64 throughout, as `Use.ghost` asks
        outputs = F.pad(outputs, (0, width - outputs.shape[3])).flatten(2)[:, :, :last]
        pixels = torch.bmm(image.transpose(1, 2), image)
        patches = torch.zeros(len(image), last, last, dtype=image.dtype, device=image.device)
        for a, b in itertools.product(*(range(size) for size in self.geometry.weight[2:])):
            shift = slice(a * width + b, a * width + b + last)
            patches += pixels[:, shift, shift]
        return patches.mul_(torch.bmm(outputs.transpose(1, 2), outputs)).sum((1, 2))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        book: Book,
        geometry: Geometry,
    ) -> torch.Tensor:
        ctx.weight, ctx.bias, ctx.book, ctx.geometry, ctx.shape = weight, bias, book, geometry, x.shape
        ctx.save_for_backward(x if book.wants(weight) else None)  # of a frozen weight nothing need be held
        return torch.convolution(
            x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), geometry.stride, geometry.padding,
            geometry.dilation, geometry.transposed, geometry.output_padding, geometry.groups,
        )  # fmt: skip

    @staticmethod
    @untracked
    def backward(
        ctx: Any, saved: tuple[torch.Tensor, ...], gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        book, weight, bias, geometry = ctx.book, ctx.weight, ctx.bias, ctx.geometry
        (x,) = saved
        inner = weight.dim() - 1
        if book.wants(bias):
            rows = wide(book.rows(gradient, bias, inner))
            book.add(bias, Direct(rows.flatten(3).sum((1, 3))))
        if x is not None:
            use = Convolution(book.rows(gradient, weight, inner), book.rows(x, weight, inner), geometry)
            book.add(weight, use.as_product() if geometry.pointwise else use)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        inputs = gradient.new_empty(1).expand(ctx.shape)  # only its shape is read
        to_input = _backward(
            gradient, inputs, weight.to(gradient.dtype), None, geometry.stride, geometry.padding, geometry.dilation,
            geometry.transposed, geometry.output_padding, geometry.groups, [True, False, False],
        )[0]  # fmt: skip
        return to_input, None, None, None, None


def _each(value: Sizes, dimensions: int) -> list[int]:
    if isinstance(value, int):
        return [value] * dimensions
    return list(value) * dimensions if len(value) == 1 else list(value)


@rule(F.conv1d, F.conv2d, F.conv3d)
def _conv(
    book: Book,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Any:
    if not book.shared.owns(weight, bias):
        return NotImplemented
    n = weight.dim() - 2
    dilated = _each(dilation, n)
    if padding == "same":  # as torch: the odd pixel goes to the end
        spare = [d * (k - 1) for d, k in zip(dilated, weight.shape[2:], strict=True)]
        if any(s % 2 for s in spare):
            input = F.pad(input, [side for s in reversed(spare) for side in (s // 2, s - s // 2)])
            padding = 0
        else:
            padding = [s // 2 for s in spare]
    padded = [0] * n if isinstance(padding, str) else _each(padding, n)
    geometry = Geometry(weight.shape, _each(stride, n), padded, dilated, False, [0] * n, groups)
    out: torch.Tensor = _Convolution.apply(autocast(input), weight, bias, book, geometry)
    return out


@rule(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
def _conv_transpose(
    book: Book,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Any:
    if not book.shared.owns(weight, bias):
        return NotImplemented
    n = weight.dim() - 2
    sizes = (_each(value, n) for value in (stride, padding, dilation, output_padding))
    strides, padded, dilated, extra = sizes
    geometry = Geometry(weight.shape, strides, padded, dilated, True, extra, groups)
    out: torch.Tensor = _Convolution.apply(autocast(input), weight, bias, book, geometry)
    return out
