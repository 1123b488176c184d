"""One use of a parameter in a forward pass, with what its per-unit gradients need."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Self

import torch

from privacy.clipping.units import Units

_BLOCK = 4096
_PLAIN = (1e-20, 1e36)  # squared norms of rows of which float32 loses no square that counts

Order = Callable[[torch.Tensor], torch.Tensor]


def as_it_is(rows: torch.Tensor) -> torch.Tensor:
    """Return the rows unchanged: the order of most uses is the parameter's own."""
    return rows


@dataclass(frozen=True)
class Cost:
    """What the ways to a norm cost (`privacy.clipping.choose`), per unit, in multiply-adds of a matrix product.

    Attributes:
        gradient: the ordinary weight gradient.
        keep: what it costs more to make one gradient a unit, take its norm and sum the scaled gradients.
        ghost: the ghost norm; infinite if there is none.
    """

    gradient: float
    keep: float
    ghost: float = math.inf


@dataclass(frozen=True)
class Use(ABC):
    """Every tensor field has the batch's R records as its first dimension, units contiguous.

    The use's gradient is a sum over records, so it is linear in each record's output gradient.
    """

    @abstractmethod
    def per_unit(self, units: Units) -> torch.Tensor:
        """Each unit's gradient, flat, [P, numbers], in an order of its own that `order` undoes."""

    def order(self) -> Order:
        """From [..., numbers] of `per_unit`, or sums of them, to [..., numel] as the parameter's numbers lie.

        What it returns holds none of the use's tensors.
        """
        return as_it_is

    @abstractmethod
    def weighted(self, factors: torch.Tensor) -> torch.Tensor:
        """Sum over records of factors[r] times the record's gradient, [numel] or the parameter's shape.

        In float32 at least: what is released must have the norm that was bounded.
        """

    @abstractmethod
    def cost(self, units: Units) -> Cost: ...

    def ghost(self, units: Units) -> torch.Tensor:
        """Squared norms [P] of the units' gradients, without the gradients, in float64.

        In less, a difference of large numbers could come out far too small, and squares could vanish.
        """
        raise NotImplementedError

    def reach(self, units: Units) -> torch.Tensor | None:
        """Squared norms [P], float64, that bound the sum of the norms of all terms that `weighted` adds for a unit.

        Terms may cancel, their rounding errors do not: those are relative to this. None if no bound is known; the
        weighted sum must then be made of `per_unit`, whose norm is taken as it was rounded.
        """
        return None

    @classmethod
    def joined(cls, uses: list[Self]) -> list[Self]:
        """Fewer uses with the same sum of gradients, where the form allows it."""
        return uses

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors that this use holds, by name."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in pairs if isinstance(value, torch.Tensor)}

    @property
    def exact(self) -> bool:
        """Whether all floating-point tensors of this use are float64."""
        return all(t.dtype == torch.float64 for t in self.tensors().values() if t.is_floating_point())

    @property
    def held(self) -> int:
        """Bytes of all tensors that this use holds until the clipping factors are known."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        """The same use with `change` applied to every tensor."""
        return replace(self, **{name: change(tensor) for name, tensor in self.tensors().items()})


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float32 if it is float16 or bfloat16; other types are unchanged."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def scaled(tensor: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Row r of `tensor` [R, ...] times factors[r], computed in float32 at least."""
    tensor = wide(tensor)
    return tensor * factors.to(tensor.dtype).view(-1, *[1] * (tensor.dim() - 1))


def owned(output: torch.Tensor) -> torch.Tensor:
    """Make an autograd function's output no view of another tensor, so that a model may change it in place."""
    out: torch.Tensor = torch.ops.aten._unsafe_view(output, output.shape) if output._is_view() else output
    return out


def squared_norms(rows: torch.Tensor) -> torch.Tensor:
    """Squared norm of each row of [P, ...] as float64 [P], as if added up in float64.

    In blocks: a float32 norm of millions of values on the CPU comes out 1e-4 too small, which would under-clip. A row
    whose squares vanish or overflow in float32 is taken again in float64: they would for some ways to a norm and not
    for others, and which way is taken depends on the batch. Whether a unit counts may not.
    """
    rows = wide(rows.flatten(1))
    squares = _in_blocks(rows)
    odd = ~((squares > _PLAIN[0]) & (squares < _PLAIN[1]))
    if bool(odd.any()):
        squares[odd] = torch.linalg.vector_norm(rows[odd], dim=1, dtype=torch.float64).square()
    return squares


def _in_blocks(rows: torch.Tensor) -> torch.Tensor:
    whole = rows.shape[1] // _BLOCK * _BLOCK
    if whole <= _BLOCK:
        return torch.linalg.vector_norm(rows, dim=1).double().square()
    blocks = torch.linalg.vector_norm(rows[:, :whole].unflatten(1, (-1, _BLOCK)), dim=2).double()
    return blocks.square().sum(1) + torch.linalg.vector_norm(rows[:, whole:], dim=1).double().square()


def spread(tensor: torch.Tensor, units: Units) -> torch.Tensor:
    """Squared norm of each unit's rows of [R, ...], float64 [P]."""
    return units.sum(squared_norms(tensor))


@dataclass(frozen=True)
class Direct(Use):
    """Each record's gradient itself, [R, *shape]."""

    gradient: torch.Tensor

    def per_unit(self, units: Units) -> torch.Tensor:
        return units.sum(self.gradient.reshape(units.records, -1))

    def weighted(self, factors: torch.Tensor) -> torch.Tensor:
        return scaled(self.gradient, factors).sum(0)

    def cost(self, units: Units) -> Cost:
        return Cost(gradient=0.0, keep=0.0)  # the gradient is there already
