"""What all records of a batch share: constants, and tensors that are computed from parameters alone.

A position bias looked up in a table, 1 + scale, a normalised or transposed weight: to the rules such a *derived*
tensor is a parameter. Its units' gradients are carried on to the parameters by the chain rule,
g_u(parameter) = J^T g_u(derived), through autograd, many units at a time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from privacy.clipping.units import Units
from privacy.clipping.use import Cost, Use
from privacy.errors import UntrackedParameter

# What these make depends on sizes and numbers alone.
FACTORIES = {
    torch.arange, torch.eye, torch.full, torch.full_like, torch.linspace, torch.ones, torch.ones_like, torch.zeros,
    torch.zeros_like, torch.tril_indices, torch.triu_indices, torch.Tensor.new_full, torch.Tensor.new_ones,
    torch.Tensor.new_zeros,
}  # fmt: skip
# What these make may differ from record to record.
RANDOM = {
    torch.bernoulli, torch.normal, torch.rand_like, torch.randn_like, torch.Tensor.bernoulli, torch.Tensor.bernoulli_,
    torch.Tensor.normal_, torch.Tensor.uniform_,
}  # fmt: skip
_LOW = (torch.float16, torch.bfloat16)
_CARRY = 60.0  # multiply-adds in the time that a number of a unit's gradient takes to be carried on


class Constants:
    """The tensors known to hold no record: a model's buffers and frozen parameters, and what is made of them.

    Whatever is not known is not constant; an in-place change by anything else ends it.
    """

    def __init__(self, fixed: Iterable[torch.Tensor]) -> None:
        self._fixed = {id(tensor): tensor for tensor in fixed}
        self._made: dict[int, tuple[weakref.ref[torch.Tensor], int]] = {}

    def __contains__(self, tensor: torch.Tensor) -> bool:
        if id(tensor) in self._fixed:
            return True
        # The id may have passed to a newer tensor, and another version means a change in place.
        made = self._made.get(id(tensor))
        return made is not None and made[0]() is tensor and made[1] == tensor._version

    def add(self, *tensors: torch.Tensor) -> None:
        """Take note of what an operator made, or changed in place, from constants alone."""
        for tensor in tensors:
            # An inference tensor counts no versions: a change in place would go unnoticed.
            if not tensor.requires_grad and not tensor.is_inference():
                self._made[id(tensor)] = (weakref.ref(tensor), tensor._version)

    def forget(self) -> None:
        """Drop what no longer exists."""
        self._made = {key: made for key, made in self._made.items() if made[0]() is not None}


@dataclass(frozen=True)
class Derived:
    """A tensor computed from parameters and constants.

    Attributes:
        value: the tensor, on its own graph, which only `Through` follows.
        shown: the same numbers, as the model has them.
        version: of `shown`; another one means that it was changed in place.
        roots: the parameters that it is computed from.
    """

    value: torch.Tensor
    shown: torch.Tensor
    version: int
    roots: tuple[nn.Parameter, ...]


@dataclass(frozen=True)
class Through(Use):
    """Uses of a derived tensor as one use of one of its roots."""

    uses: tuple[Use, ...]
    derived: torch.Tensor
    root: nn.Parameter
    name: str

    def per_unit(self, units: Units) -> torch.Tensor:
        rows = [use.order()(use.per_unit(units)) for use in self.uses]
        return self._carried(sum(rows[1:], start=rows[0]))

    def weighted(self, factors: torch.Tensor) -> torch.Tensor:
        totals = [use.weighted(factors).flatten() for use in self.uses]
        return self._carried(sum(totals[1:], start=totals[0])[None])[0]

    def _carried(self, rows: torch.Tensor) -> torch.Tensor:
        """From [n, numbers of the derived tensor] to [n, numbers of the root].

        Raises:
            UntrackedParameter: an operator on the way takes one gradient at a time.
        """
        gradients = rows.to(self.derived.dtype).view(-1, *self.derived.shape)
        try:
            (found,) = torch.autograd.grad(
                self.derived,
                self.root,
                gradients,
                retain_graph=True,
                allow_unused=True,
                is_grads_batched=True,
            )
        except torch.OutOfMemoryError:  # a RuntimeError too, but no sign of such an operator
            raise
        except RuntimeError as error:
            raise UntrackedParameter(
                f"{self.name}: a tensor computed from it takes no batch of gradients ({error}). Use other operators."
            ) from error
        return (
            self.root.new_zeros(len(rows), self.root.numel())
            if found is None
            else found.reshape(len(rows), -1)
        )

    def cost(self, units: Units) -> Cost:
        costs = [use.cost(units) for use in self.uses]
        carried = _CARRY * (self.derived.numel() + self.root.numel())
        return Cost(sum(cost.gradient for cost in costs), sum(cost.keep for cost in costs) + carried)

    @classmethod
    def joined(cls, uses: list[Through]) -> list[Through]:
        """Join the uses of each derived tensor, so that their gradients go through the chain rule together."""
        by_source: dict[int, Through] = {}
        for use in uses:
            known = by_source.get(id(use.derived))
            by_source[id(use.derived)] = use if known is None else replace(known, uses=known.uses + use.uses)
        return list(by_source.values())

    def tensors(self) -> dict[str, torch.Tensor]:
        pairs = ((i, use.tensors()) for i, use in enumerate(self.uses))
        return {f"{i}.{name}": tensor for i, held in pairs for name, tensor in held.items()}

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Through:
        return replace(self, uses=tuple(use.map(change) for use in self.uses))


class _Shown(torch.autograd.Function):
    """Hands on a derived tensor's numbers. A gradient that comes back has passed an operator without a rule."""

    @staticmethod
    def forward(
        ctx: Any, value: torch.Tensor, root: nn.Parameter, name: str, strays: list[str]
    ) -> torch.Tensor:
        ctx.set_materialize_grads(False)
        ctx.name, ctx.strays = name, strays
        return value.detach()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor | None) -> tuple[None, ...]:
        if gradient is not None:
            ctx.strays.append(ctx.name)
        return None, None, None, None


class Shared:
    """What the records of one pass share: the trainable parameters, and what is derived from them.

    Args:
        parameters: the trainable parameters by name.
        constants: of the model, kept from pass to pass.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], constants: Constants) -> None:
        self._names = {id(p): name for name, p in parameters.items()}
        self.constants = constants
        self._derived: dict[int, Derived] = {}
        self.strays: list[str] = []  # of derived tensors in operators without a rule

    def wants(self, value: object) -> bool:
        """Whether `value` is a trainable parameter of the model, or derived from some."""
        if id(value) in self._names:
            return True
        derived = self._derived.get(id(value))
        return derived is not None and derived.version == derived.shown._version

    def owns(self, *tensors: torch.Tensor | None) -> bool:
        """Whether every tensor is one of ours or takes no gradient. A weight made from records is neither."""
        return all(t is None or not t.requires_grad or self.wants(t) for t in tensors)

    def name(self, tensor: torch.Tensor) -> str:
        """Name of the parameter, or of the first parameter that a derived tensor is computed from."""
        return self._names[id(self.roots(tensor)[0])]

    def roots(self, tensor: torch.Tensor) -> tuple[nn.Parameter, ...]:
        derived = self._derived.get(id(tensor))
        return (tensor,) if derived is None else derived.roots  # type: ignore[return-value]

    def through(self, tensor: torch.Tensor, use: Use) -> list[tuple[nn.Parameter, Use]]:
        """A use of a parameter or derived tensor as uses of parameters.

        Raises:
            UntrackedParameter: the derived tensor was changed in place after this use.
        """
        derived = self._derived.get(id(tensor))
        if derived is None:
            return [(tensor, use)]  # type: ignore[list-item]
        if derived.version != derived.shown._version:
            raise UntrackedParameter(
                f"{self.name(tensor)}: a tensor computed from it was used and then changed in place. Change a copy."
            )
        return [(root, Through((use,), derived.value, root, self.name(root))) for root in derived.roots]

    def derive(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: list[torch.Tensor]
    ) -> Any:
        """Run an operator in which only parameters and derived tensors take gradients: its results are derived.

        Per-unit gradients of the result lead to exact ones of the parameters, whatever else the operator takes.

        Args:
            func: the operator.
            args: its positional arguments.
            kwargs: its keyword arguments.
            inputs: the parameters and derived tensors among them, at least one.

        Returns:
            What `func` returns; NotImplemented if it computes in less than float32, where what is released would not
            have exactly the norm that was bounded.
        """
        roots = tuple(dict.fromkeys(root for tensor in inputs for root in self.roots(tensor)))
        # On a graph of its own, apart from the model's, so that `Through` can differentiate it many units at a time.
        own_args = [self._inner(value) for value in args]
        own_kwargs = {key: self._inner(value) for key, value in kwargs.items()}
        precise = torch.autocast(inputs[0].device.type, enabled=False)
        with torch.autograd.graph.saved_tensors_hooks(_same, _same), precise:
            values = func(*own_args, **own_kwargs)
        if any(tensor.dtype in _LOW for tensor in tensors_in((values,))):
            return NotImplemented
        given = {id(self._inner(tensor)): tensor for tensor in inputs}
        return _map(values, lambda value: self._show(value, roots, given))

    def _inner(self, argument: Any) -> Any:
        return _map(argument, lambda t: self._derived[id(t)].value if id(t) in self._derived else t)

    def _show(
        self, value: torch.Tensor, roots: tuple[nn.Parameter, ...], given: dict[int, torch.Tensor]
    ) -> torch.Tensor:
        if id(value) in given and self.wants(given[id(value)]):  # the input itself, as from `contiguous`
            return given[id(value)]
        if not value.requires_grad:  # detached, or a comparison
            return value
        # The root is passed along so that the result takes a gradient, which then shows where it has strayed to.
        shown: torch.Tensor = _Shown.apply(value.detach(), roots[0], self.name(roots[0]), self.strays)
        self._derived[id(shown)] = Derived(value, shown, shown._version, roots)
        return shown


def tensors_in(values: Iterable[Any]) -> list[torch.Tensor]:
    """The tensors among an operator's arguments or results, and those in lists among them."""
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found.extend(one for one in value if isinstance(one, torch.Tensor))
    return found


def _map(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(change(one) if isinstance(one, torch.Tensor) else one for one in value)
    return value


def _same(tensor: torch.Tensor) -> torch.Tensor:
    """A checkpoint around the operator would otherwise take what it saves."""
    return tensor
