"""Matrix products with a trainable weight: `F.linear`, `addmm` (transformers' Conv1D), `x @ weight`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from privacy.clipping.book import Book
from privacy.clipping.operators import autocast, rule, untracked
from privacy.clipping.parameter import broadcast
from privacy.clipping.units import Units
from privacy.clipping.use import Cost, Direct, Use, owned, scaled, squared_norms, wide

# Relative rates on CPUs (one thread, batches of 16, widths of 64 to 1024); the choice is broad, so a factor of
# two either way hardly matters.
_KEEP = 30.0  # multiply-adds in the time that a number of a kept gradient is written and read twice
_GRAM = 2.4  # Gram matrices are small and in float64, so their products run at a lower rate


@dataclass(frozen=True)
class Product(Use):
    """Record r's gradient is left[r]^T right[r], [d, p]: left [R, T, d], right [R, T, p].

    For `F.linear`, left is the output's gradient and right the input.
    """

    left: torch.Tensor
    right: torch.Tensor

    def per_unit(self, units: Units) -> torch.Tensor:
        if units.even:
            left, right = (_by_unit(t, units) for t in (self.left, self.right))
            return torch.bmm(left.transpose(1, 2), right).flatten(1)
        out = self.left.new_empty(units.count, self.left.shape[2], self.right.shape[2])
        for unit, rows in enumerate(units.spans()):
            torch.mm(self.left[rows].flatten(0, 1).t(), self.right[rows].flatten(0, 1), out=out[unit])
        return out.flatten(1)

    def weighted(self, factors: torch.Tensor) -> torch.Tensor:
        left, right = self.left, self.right
        if left.shape[2] < right.shape[2]:
            left, right = scaled(left, factors), wide(right)
        else:
            left, right = wide(left), scaled(right, factors)
        return left.flatten(0, 1).t() @ right.flatten(0, 1)

    def cost(self, units: Units) -> Cost:
        _, positions, d = self.left.shape
        p = self.right.shape[2]
        length = positions * units.records / units.count
        return Cost(length * d * p, keep=_KEEP * d * p, ghost=_GRAM * length * length * (d + p))

    def ghost(self, units: Units) -> torch.Tensor:
        """sum over s, t of (left_s . left_t)(right_s . right_t), s and t over a unit's records and positions."""
        if self.left.shape[1] == 1 and units.even == 1:
            left, right = (
                torch.linalg.vector_norm(t.flatten(1).double(), dim=1) for t in (self.left, self.right)
            )
            return (left * right).square()
        if units.even:
            return _gram_product(_by_unit(self.left, units), _by_unit(self.right, units))
        squares = self.left.new_empty(units.count, dtype=torch.float64)
        for which, rows in units.alike():
            pair = (t[rows].reshape(len(which), -1, t.shape[-1]) for t in (self.left, self.right))
            squares[which] = _gram_product(*pair)
        return squares

    def reach(self, units: Units) -> torch.Tensor:
        """Term by term: where a gradient is 0, as at padding, nothing is added, however large the input."""
        left, right = (
            squared_norms(t.flatten(0, 1)).sqrt().view(t.shape[:2]) for t in (self.left, self.right)
        )
        return units.sum((left * right).sum(1)).square()

    @classmethod
    def joined(cls, uses: list[Product]) -> list[Product]:
        return [cls(torch.cat([use.left for use in uses], 1), torch.cat([use.right for use in uses], 1))]


def _by_unit(tensor: torch.Tensor, units: Units) -> torch.Tensor:
    """[R, T, d] as [P, k T, d], for units of k records each."""
    return tensor.reshape(units.count, -1, tensor.shape[-1])


def _gram_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    left, right = left.double(), right.double()
    grams = torch.bmm(left, left.transpose(1, 2)).mul_(torch.bmm(right, right.transpose(1, 2)))
    return grams.sum((1, 2))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        book: Book,
        transposed: bool,
    ) -> torch.Tensor:
        ctx.weight, ctx.bias, ctx.book, ctx.transposed = weight, bias, book, transposed
        ctx.save_for_backward(x if book.wants(weight) else None)
        weight = weight.to(x.dtype)
        weight = weight.t() if transposed else weight
        return owned(F.linear(x, weight, None if bias is None else bias.to(x.dtype)))

    @staticmethod
    @untracked
    def backward(
        ctx: Any, saved: tuple[torch.Tensor, ...], gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        book, weight, bias = ctx.book, ctx.weight, ctx.bias
        (x,) = saved
        if book.wants(bias):
            book.add(bias, Direct(wide(book.rows(gradient, bias, 1)).sum(1)))
        if x is not None:
            left, right = book.rows(gradient, weight, 1), book.rows(x, weight, 1)
            book.add(weight, Product(right, left) if ctx.transposed else Product(left, right))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        weight = weight.to(gradient.dtype)
        return gradient @ (weight.t() if ctx.transposed else weight), None, None, None, None


def tracked_linear(
    book: Book, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, transposed: bool = False
) -> torch.Tensor:
    """A linear layer that writes its uses of trainable parameters into the book.

    Args:
        book: of this pass.
        x: [R, ..., p], records first.
        weight: [d, p], or [p, d] if `transposed`; only used, if it is not trained.
        bias: [d], or None.
        transposed: compute x weight + bias instead of x weight^T + bias.

    Returns:
        [R, ..., d].
    """
    out: torch.Tensor = _Linear.apply(autocast(x), weight, bias, book, transposed)
    return out


@rule(F.linear)
def _linear(book: Book, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
    if book.wants(input) or not book.shared.owns(weight, bias):
        return NotImplemented
    return tracked_linear(book, input, weight, bias)


@rule(torch.addmm)
def _addmm(book: Book, bias: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, **scales: float) -> Any:
    if book.wants(x) or bias.dim() != 1 or any(value != 1 for value in scales.values()):
        return NotImplemented
    if not book.shared.owns(weight, bias):
        return NotImplemented
    return tracked_linear(book, x, weight, bias, transposed=True)


@rule(torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm, torch.Tensor.mm)
def _matmul(book: Book, x: torch.Tensor, weight: torch.Tensor) -> Any:
    if book.wants(weight) and not book.wants(x) and weight.dim() == 2 and x.dim() >= 2:
        return tracked_linear(book, x, weight, None, transposed=True)
    other = x if book.wants(weight) else weight
    return broadcast(torch.matmul, book, x, weight) if other.dim() > 2 else NotImplemented
