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
    def forward(ctx: Any, parameter: torch.Tensor, book: Book) -> torch.Tensor:
        ctx.parameter, ctx.book = parameter, book
        return parameter.detach().expand(book.records, *parameter.shape)

    @staticmethod
    @untracked
    def backward(ctx: Any, saved: tuple[torch.Tensor, ...], gradient: torch.Tensor) -> tuple[None, None]:
        ctx.book.add(ctx.parameter, Direct(gradient))
        return None, None


def copies(book: Book, parameter: torch.Tensor) -> torch.Tensor:
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


@rule(per_record, of_shared=True)
def _per_record(book: Book, parameter: torch.Tensor, records: int) -> Any:
    if records != book.records:
        raise book.refuse(
            parameter, f"per_record was asked for {records} records of a batch of {book.records}."
        )
    return copies(book, parameter)


@rule(torch.Tensor.expand, of_shared=True)
def _expand(book: Book, parameter: torch.Tensor, *sizes: Any) -> Any:
    """`token.expand(R, -1, -1)`, as for class tokens."""
    shape = _sizes(sizes)
    if not _fits(parameter, len(shape)) or not book.copies_by_record(parameter, shape[0]):
        return NotImplemented
    return _aligned(book, parameter, len(shape)).expand(*shape)


@rule(torch.Tensor.repeat, of_shared=True)
def _repeat(book: Book, parameter: torch.Tensor, *sizes: Any) -> Any:
    """`positions.repeat(R, 1, 1)`: [n, ...] as [R n, ...], each record's rows together."""
    times = _sizes(sizes)
    if len(times) < max(1, parameter.dim()) or not book.copies_by_record(parameter, times[0]):
        return NotImplemented
    if len(times) > parameter.dim():
        return _aligned(book, parameter, len(times)).repeat(1, *times[1:])
    return copies(book, parameter).repeat(1, 1, *times[1:]).flatten(0, 1)


def _sizes(given: tuple[Any, ...]) -> list[int]:
    """Sizes given one by one, or as one list."""
    return list(given[0]) if isinstance(given[0], tuple | list) else list(given)


def _fits(parameter: torch.Tensor, dimensions: int) -> bool:
    """Whether a tensor of so many dimensions has a first one that the parameter does not have."""
    return dimensions > parameter.dim() or (dimensions == parameter.dim() and parameter.shape[:1] == (1,))


def _aligned(book: Book, parameter: torch.Tensor, dimensions: int) -> torch.Tensor:
    """The copies as they broadcast against a tensor [R, ...] of so many dimensions, into which the parameter fits."""
    spare = dimensions - parameter.dim()
    if spare == 0:
        return copies(book, parameter).squeeze(1)
    return copies(book, parameter).unflatten(0, (book.records, *[1] * (spare - 1)))


def beside(book: Book, parameter: torch.Tensor, other: torch.Tensor) -> torch.Tensor | None:
    """Copies of the parameter that broadcast against a tensor of records, [R, ...], or of windows of them, [R m, ...].

    None if `other` is none, or the parameter does not fit.
    """
    rows = other.shape[0] if other.dim() else 0
    if rows == 0 or rows % book.records or not _fits(parameter, other.dim()):
        return None
    aligned = _aligned(book, parameter, other.dim())
    return aligned if rows == book.records else aligned.repeat_interleave(rows // book.records, 0)


def broadcast(function: Any, book: Book, *args: Any, **kwargs: Any) -> Any:
    """`x * scale`, `x + positions`: x has the records first, and the parameter broadcasts against it.

    Args:
        function: the elementwise operator, which is called with copies of the parameter for each record.
        book: of the batch, whose R records x has first.
        args: the operator's own arguments, tensors and numbers.
        kwargs: the operator's keywords, none of which is covered.

    Returns:
        What the operator gives, or `NotImplemented` for what this rule does not cover.
    """
    tensors = [argument for argument in args if isinstance(argument, torch.Tensor)]
    others = [tensor for tensor in tensors if not book.wants(tensor)]
    if kwargs or not others:
        return NotImplemented
    other = max(others, key=torch.Tensor.dim)
    aligned = {id(tensor): beside(book, tensor, other) for tensor in tensors if book.wants(tensor)}
    if any(copies is None for copies in aligned.values()):
        return NotImplemented
    return function(*(aligned.get(id(argument), argument) for argument in args))


_NAMES = ["add", "sub", "mul", "div", "true_divide", "rsub"]
_METHODS = (
    "__add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __rdiv__ add_ sub_ mul_ div_"
)
for _function in {
    torch.where,
    torch.masked_fill,
    torch.Tensor.where,
    torch.Tensor.masked_fill,
    *(getattr(torch, name) for name in _NAMES),
    *(getattr(torch.Tensor, name) for name in (*_NAMES, *_METHODS.split()) if hasattr(torch.Tensor, name)),
}:
    rule(_function)(functools.partial(broadcast, _function))
