"""Biases, scales and raw parameters: gradients that autograd gives per record."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from privacy.clipping.book import Book
from privacy.clipping.operators import rule, untracked
from privacy.clipping.use import Direct


class _Copies(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameter: nn.Parameter, book: Book) -> torch.Tensor:
        ctx.parameter, ctx.book = parameter, book
        return parameter.detach().expand(book.records, *parameter.shape)

    @staticmethod
    @untracked
    def backward(ctx: Any, saved: tuple[torch.Tensor, ...], gradient: torch.Tensor) -> tuple[None, None]:
        ctx.book.add(ctx.parameter, Direct(gradient))
        return None, None


def copies(book: Book, parameter: nn.Parameter) -> torch.Tensor:
    """One copy of the parameter for each record, [R, *shape] (no memory is used)."""
    out: torch.Tensor = _Copies.apply(parameter, book)
    return out


def per_record(parameter: nn.Parameter, records: int) -> torch.Tensor:
    """[R, *shape]: a raw parameter as one copy for each record, for operators that have no rule of their own.

    Inside a private step its gradient is then known per record; elsewhere this is `parameter.expand(R, *shape)`.
    """
    if has_torch_function_unary(parameter):
        out: torch.Tensor = handle_torch_function(per_record, (parameter,), parameter, records)
        return out
    return parameter.expand(records, *parameter.shape)


@rule(per_record)
def _per_record(book: Book, parameter: nn.Parameter, records: int) -> Any:
    if records != book.records:
        raise book.refuse(
            parameter, f"per_record was asked for {records} records of a batch of {book.records}."
        )
    return copies(book, parameter)


@rule(torch.Tensor.expand)
def _expand(book: Book, parameter: nn.Parameter, *sizes: Any) -> Any:
    """`token.expand(R, -1, -1)`, as for class tokens."""
    shape = list(sizes[0]) if isinstance(sizes[0], tuple | list) else list(sizes)
    aligned = _aligned(book, parameter, len(shape))
    if aligned is None or shape[0] != book.records:
        return NotImplemented
    return aligned.expand(*shape)


def _aligned(book: Book, parameter: nn.Parameter, dimensions: int) -> torch.Tensor | None:
    """The copies as they broadcast against a tensor [R, ...] of so many dimensions."""
    spare = dimensions - parameter.dim()
    if spare > 0:
        return copies(book, parameter).unflatten(0, (book.records, *[1] * (spare - 1)))
    if spare == 0 and parameter.dim() > 0 and parameter.shape[0] == 1:
        return copies(book, parameter).squeeze(1)
    return None


def _broadcast(function: Any, book: Book, *args: Any, **kwargs: Any) -> Any:
    """`x * scale`, `x + positions`: x has the records first, and the parameter broadcasts against it."""
    if len(args) != 2 or kwargs:
        return NotImplemented
    other = next((a for a in args if isinstance(a, torch.Tensor) and not book.wants(a)), None)
    if other is None or other.dim() == 0 or other.shape[0] != book.records:
        return NotImplemented
    parameter = next(a for a in args if book.wants(a))
    aligned = _aligned(book, parameter, other.dim())
    return NotImplemented if aligned is None else function(*(aligned if a is parameter else a for a in args))


_NAMES = ["add", "sub", "mul", "div", "true_divide", "rsub"]
_METHODS = (
    "__add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __rdiv__ add_ sub_ mul_ div_"
)
for _function in {
    *(getattr(torch, name) for name in _NAMES),
    *(getattr(torch.Tensor, name) for name in (*_NAMES, *_METHODS.split()) if hasattr(torch.Tensor, name)),
}:
    rule(_function)(functools.partial(_broadcast, _function))
