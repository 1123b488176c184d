"""Activations with a trainable slope: PReLU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from privacy.clipping.book import Book
from privacy.clipping.operators import rule, untracked
from privacy.clipping.use import Direct, wide


class _PReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, book: Book) -> torch.Tensor:
        ctx.weight, ctx.book = weight, book
        ctx.save_for_backward(x)
        return torch.prelu(x, weight.to(x.dtype))

    @staticmethod
    @untracked
    def backward(
        ctx: Any, saved: tuple[torch.Tensor, ...], gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, None, None]:
        weight, book = ctx.weight, ctx.book
        (x,) = saved
        slope = weight.to(gradient.dtype)  # autocast may have widened the output
        to_input, to_slope = torch.ops.aten._prelu_kernel_backward(
            gradient, x.to(gradient.dtype), slope.view(-1, *[1] * (x.dim() - 2)) if x.dim() > 1 else slope
        )
        rows = wide(to_slope).reshape(book.records, -1, weight.numel(), to_slope[0].numel() // weight.numel())
        book.add(weight, Direct(rows.sum((1, 3))))
        return to_input.to(x.dtype) if ctx.needs_input_grad[0] else None, None, None


@rule(F.prelu, torch.prelu)
def _prelu(book: Book, input: torch.Tensor, weight: torch.Tensor) -> Any:
    if book.wants(input) or input.dim() < 2 or input.shape[0] % book.records:
        return NotImplemented
    out: torch.Tensor = _PReLU.apply(input, weight, book)
    return out
