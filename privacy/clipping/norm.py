"""Normalisation layers: each record's gradient of scale and shift, next to one fused call for the input's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from privacy.clipping.book import Book
from privacy.clipping.operators import rule, untracked
from privacy.clipping.parameter import copies
from privacy.clipping.use import Direct, wide
from privacy.errors import UnsupportedModel

_CACHED = 1 << 18  # numbers that stay in a CPU's cache; only the speed depends on it


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        book: Book,
        shape: list[int],
        eps: float,
    ) -> torch.Tensor:
        y, mean, rstd = torch.native_layer_norm(x, shape, weight, bias, eps)
        ctx.weight, ctx.bias, ctx.book, ctx.shape = weight, bias, book, shape
        ctx.save_for_backward(x, mean, rstd)
        return y

    @staticmethod
    @untracked
    def backward(
        ctx: Any, saved: tuple[torch.Tensor, ...], gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        book, weight, bias, inner = ctx.book, ctx.weight, ctx.bias, len(ctx.shape)
        x, mean, rstd = saved
        gradient = gradient.contiguous()
        if book.wants(bias):
            book.add(bias, Direct(book.rows(wide(gradient), bias, inner).sum(1)))
        if book.wants(weight):
            rows = [book.rows(t, weight, inner) for t in (gradient, x, mean, rstd)]
            # x is normalised again, in parts: the normalised tensor would take as much memory as x.
            step = max(1, _CACHED // rows[1][0].numel()) if x.device.type == "cpu" else len(x)
            parts = zip(*(t.split(step) for t in rows), strict=True)
            book.add(weight, Direct(torch.cat([((wide(b) - m) * r).mul_(a).sum(1) for a, b, m, r in parts])))
        to_input = None
        if ctx.needs_input_grad[0]:
            to_input = torch.ops.aten.native_layer_norm_backward(
                gradient, x, ctx.shape, mean, rstd, weight, bias, [True, False, False]
            )[0]
        return to_input, None, None, None, None, None


@rule(F.layer_norm)
def _layer_norm(
    book: Book,
    input: torch.Tensor,
    normalized_shape: list[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    if not book.shared.owns(weight, bias):
        return NotImplemented
    out: torch.Tensor = _LayerNorm.apply(
        _as_autocast(input, weight, bias), weight, bias, book, list(normalized_shape), eps
    )
    return out


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        book: Book,
        groups: int,
        eps: float,
    ) -> torch.Tensor:
        x = x.contiguous()
        images, channels = x.shape[:2]
        size = x[0, 0].numel()
        y, mean, rstd = torch.native_group_norm(x, weight, bias, images, channels, size, groups, eps)
        ctx.weight, ctx.bias, ctx.book, ctx.sizes = weight, bias, book, (images, channels, size, groups)
        ctx.save_for_backward(x, mean, rstd)
        return y

    @staticmethod
    @untracked
    def backward(
        ctx: Any, saved: tuple[torch.Tensor, ...], gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        book, weight, bias = ctx.book, ctx.weight, ctx.bias
        images, channels, size, groups = ctx.sizes
        x, mean, rstd = saved
        # With the images side by side in the channels, the fused kernel's sums over the batch are per image.
        to_input, to_weight, to_bias = torch.ops.aten.native_group_norm_backward(
            gradient.contiguous().view(1, images * channels, size),
            x.view(1, images * channels, size),
            mean.view(1, -1),
            rstd.view(1, -1),
            weight.detach().repeat(images),
            1,
            images * channels,
            size,
            images * groups,
            [ctx.needs_input_grad[0], book.wants(weight), book.wants(bias)],
        )
        _add_per_image(book, weight, to_weight, channels)
        _add_per_image(book, bias, to_bias, channels)
        return None if to_input is None else to_input.view(x.shape), None, None, None, None, None


@rule(F.group_norm)
def _group_norm(
    book: Book,
    input: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float = 1e-5,
) -> Any:
    if weight is None or bias is None or not book.shared.owns(weight, bias):
        return NotImplemented
    out: torch.Tensor = _GroupNorm.apply(
        _as_autocast(input, weight, bias), weight, bias, book, num_groups, eps
    )
    return out


@rule(F.instance_norm)
def _instance_norm(
    book: Book,
    input: torch.Tensor,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    # Running statistics carry records from batch to batch, and leave with the model, without noise.
    if running_mean is not None or not use_input_stats:
        raise UnsupportedModel(
            "InstanceNorm with running statistics: build it with track_running_stats=False."
        )
    if weight is None or bias is None:
        return NotImplemented
    return _group_norm(book, input, input.shape[1], weight, bias, eps)  # one channel a group


class _FixedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        mean: torch.Tensor,
        variance: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        book: Book,
        eps: float,
    ) -> torch.Tensor:
        x = x.contiguous()
        ctx.weight, ctx.bias, ctx.book, ctx.eps = weight, bias, book, eps
        ctx.save_for_backward(x, mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    @untracked
    def backward(
        ctx: Any, saved: tuple[torch.Tensor, ...], gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        book, weight, bias = ctx.book, ctx.weight, ctx.bias
        x, mean, variance = saved
        images, channels = x.shape[:2]
        # With the images side by side in the channels, the fused kernel's sums over the batch are per image.
        to_input, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            gradient.contiguous().view(1, images * channels, -1),
            x.view(1, images * channels, -1),
            weight.detach().repeat(images),
            mean.repeat(images),
            variance.repeat(images),
            None,
            None,
            False,
            ctx.eps,
            [ctx.needs_input_grad[0], book.wants(weight), book.wants(bias)],
        )
        _add_per_image(book, weight, to_weight, channels)
        _add_per_image(book, bias, to_bias, channels)
        return None if to_input is None else to_input.view(x.shape), *[None] * 6


@rule(F.batch_norm)
def _batch_norm(
    book: Book,
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """By fixed statistics it is a scale and a shift of each channel; by those of the batch it mixes records."""
    if training or running_mean is None or running_var is None:
        raise UnsupportedModel(
            "batch_norm by statistics of the batch mixes its records. Put it in evaluation mode."
        )
    if weight is None or bias is None or not book.shared.owns(weight, bias):
        return NotImplemented
    x = _as_autocast(input, weight, bias)
    out: torch.Tensor = _FixedNorm.apply(x, running_mean, running_var, weight, bias, book, eps)
    return out


@rule(F.rms_norm)
def _rms_norm(
    book: Book,
    input: torch.Tensor,
    normalized_shape: list[int],
    weight: torch.nn.Parameter,
    eps: float | None = None,
) -> Any:
    if not book.wants(weight):
        return NotImplemented
    normal = F.rms_norm(input, tuple(normalized_shape), None, eps)
    # Multiplied by a copy for each record, whose gradient is then known per record.
    scale = copies(book, weight)  # [R, *shape]
    spare = normal.dim() - weight.dim() - 1
    return normal * scale.view(book.records, *[1] * spare, *weight.shape)


def _add_per_image(book: Book, parameter: nn.Parameter, found: torch.Tensor, channels: int) -> None:
    """Write down the gradients [images * channels] of a scale or a shift, if it is trained."""
    if book.wants(parameter):
        book.add(parameter, Direct(book.rows(found.view(-1, channels), parameter, 1).sum(1)))


def _as_autocast(x: torch.Tensor, *parameters: torch.Tensor | None) -> torch.Tensor:
    """In the type that autocast gives it: normalisation is in full precision on a GPU, in x's own on a CPU."""
    kept = [p.dtype for p in parameters if p is not None]
    return x if x.device.type == "cpu" or not kept or x.dtype == kept[0] else wide(x)
