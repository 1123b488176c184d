"""Sees every torch operator of a forward pass that takes a trainable parameter, and gives it its rule.

Rules belong to operators, not to modules: a tied weight in `F.linear`, a fused attention function and a layer
of any class come to the same rule. A rule computes the operator's result through an autograd function that
returns no gradient for the parameter and writes what is needed into the book instead. An operator without a
rule works as ever; the gradient that autograd then puts into the parameter's `.grad` is how it is noticed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from privacy.clipping.book import Book
from privacy.clipping.shared import FACTORIES, RANDOM, tensors_in
from privacy.errors import UnsupportedModel

_RULES: dict[Any, Callable[..., Any]] = {}
_OF_SHARED: set[Any] = set()
_DROPOUTS = {
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout,
}  # fmt: skip
_R = TypeVar("_R", bound=Callable[..., Any])


def rule(*functions: Any, of_shared: bool = False) -> Callable[[_R], _R]:
    """Register `f(book, *arguments of the function)`. It may return NotImplemented to leave the operator alone.

    Args:
        of_shared: also where all arguments are shared by the records, as for one copy of a parameter for each.
    """

    def register(function: _R) -> _R:
        _RULES.update(dict.fromkeys(functions, function))
        _OF_SHARED.update(functions if of_shared else ())
        return function

    return register


class Tracking(TorchFunctionMode):
    """While active, operators on trainable parameters follow their rules and write into `book`.

    Stays active during the backward pass, where checkpointed blocks run their forward pass again.
    """

    def __init__(self, book: Book) -> None:
        super().__init__()
        self._book = book

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        constants = self._book.shared.constants
        inputs = tensors_in((*args, *kwargs.values()))
        wanted = [tensor for tensor in inputs if self._book.wants(tensor)] if torch.is_grad_enabled() else []
        if func in _DROPOUTS:
            self._check_dropout(func, *args, **kwargs)
        if wanted:
            result = self._tracked(func, args, kwargs, inputs, wanted)
            return func(*args, **kwargs) if result is NotImplemented else result
        known = func not in RANDOM and func not in _DROPOUTS and all(tensor in constants for tensor in inputs)
        changed = inputs[:1] if known else []  # perhaps, in place
        result = func(*args, **kwargs)
        if changed or func in FACTORIES:
            constants.add(*changed, *tensors_in((result,)))
        return result

    def _tracked(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: list[torch.Tensor],
        wanted: list[torch.Tensor],
    ) -> Any:
        """By the operator's rule or, where no record has a part in it, as a derived tensor."""
        book = self._book
        others = [tensor for tensor in inputs if not book.wants(tensor)]
        apart = all(book.apart(wanted[0], tensor) for tensor in others)
        if func in _RULES and (not apart or func in _OF_SHARED):
            book.saw(args[0] if args else None)
            result = _RULES[func](book, *args, **kwargs)
            if result is not NotImplemented:
                return result
        followed = apart or (func not in _RULES and not any(tensor.requires_grad for tensor in others))
        return book.shared.derive(func, args, kwargs, wanted) if followed else NotImplemented

    def _check_dropout(
        self, func: Any, input: torch.Tensor, p: float = 0.5, training: bool = True, *_: Any, **__: Any
    ) -> None:
        """
        Raises:
            UnsupportedModel: one mask is drawn for all records: all share the input, or no dimension that could be
                theirs (the first, or the second in a recurrent layer) is a multiple of them.
        """
        if not training or p <= 0:
            return
        if self._book.wants(input):
            raise self._book.refuse(
                input,
                f"{func.__name__} of what all records share draws one mask for the batch. Set its rate to 0.",
            )
        if all(size % self._book.records for size in input.shape[:2]):
            raise UnsupportedModel(
                f"{func.__name__} of shape {tuple(input.shape)} draws one mask for the batch's {self._book.records} "
                "records. Expand its input over the records first, so that each has a mask of its own."
            )


def untracked(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Makes `backward(ctx, saved, *gradients)` the backward pass of a rule's autograd function.

    Its own operators need no tracking, which costs time. Reading the saved tensors does: that is where a
    checkpointed block runs its forward pass again.
    """

    @functools.wraps(backward)
    def inner(ctx: Any, *gradients: Any) -> Any:
        saved = ctx.saved_tensors
        with torch._C.DisableTorchFunction():
            return backward(ctx, saved, *gradients)

    return inner


def autocast(tensor: torch.Tensor) -> torch.Tensor:
    """Cast a tensor to the type that autocast uses, if autocast is on. Casting is spelled out: autocast caches a
    weight's cast copy, and one that was made where gradients are off would hide a later, untracked use of the weight.
    """
    kind = tensor.device.type
    if not torch.is_autocast_enabled(kind) or tensor.dtype == torch.float64 or not tensor.is_floating_point():
        return tensor
    return tensor.to(torch.get_autocast_dtype(kind))
