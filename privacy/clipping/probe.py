"""Checks an engine on a model's first batch, before anything is released, where no made-up records are given.

`privacy.clipping.trial` sees more, and what it says tells of no private record. Three things are tried on the batch
itself:

1. The model's inputs are replaced for groups of records that tell any two records apart: no other record's loss may
   move (BatchNorm, contrastive losses). What mixes records before the model is called is not seen.
2. The gradient of one record's loss is asked of the engine: every other record must get norm 0 (a layer that
   reads another dimension as the records; records in another order).
3. What the engine finds for that record must be what plain autograd finds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from privacy.clipping.engine import ClippingEngine, RecordLosses, checked_losses
from privacy.clipping.units import Units
from privacy.clipping.validate import trainable
from privacy.errors import UnsupportedModel

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
_LOW_PRECISION_TOLERANCE = 5e-2
NEGLIGIBLE = 1e-15  # of a norm: far below every clipping norm


def probe(model: nn.Module, engine: ClippingEngine, record_losses: RecordLosses, records: int) -> None:
    """Run the three checks on the batch that `record_losses` computes. Leaves random states as they were.

    Args:
        records: R, at least 2.

    Raises:
        UnsupportedModel: a check failed; the message says which.
    """
    parameters = trainable(model)
    device = next(iter(parameters.values())).device
    chosen = records // 2
    with repeatable(device) as restart:
        with watched(model) as low:
            losses = checked_losses(record_losses, records)
        expected = gradients(losses[chosen], parameters.values())
        allowed = tolerance(low, [losses, *parameters.values()])
        restart()
        for group in _groups(records):
            _check_independence(model, record_losses, losses.detach(), group, allowed)
            restart()
        alone = torch.zeros(records, device=losses.device, dtype=losses.dtype)
        alone[chosen] = 1.0
        units = Units.of(torch.arange(records, device=device))
        found = engine.clipped(lambda: record_losses() * alone, units, torch.ones_like)
    size = torch.stack([g.double().norm() for g in expected if g is not None]).norm()
    if not bool(torch.isfinite(size + found.norms[chosen].to(size))):
        return  # such a record is left out of every sum
    others = torch.cat([found.norms[:chosen], found.norms[chosen + 1 :]])
    if bool((others > allowed * size + NEGLIGIBLE).any()):
        raise UnsupportedModel(
            "one record's loss gave other records a gradient: some layer does not have the records as its first "
            "dimension (sequence-first inputs, records reordered or regrouped)."
        )
    error = torch.zeros_like(size)
    for name, gradient in zip(parameters, expected, strict=True):
        difference = found.sums[name].double() - (0.0 if gradient is None else gradient)
        error += difference.norm().square()
    norm_error = (found.norms[chosen].to(size) - size).abs()
    most = allowed * size + NEGLIGIBLE
    if bool(error.sqrt() > most) or bool(norm_error > most):
        raise UnsupportedModel(
            f"the engine's gradient of one record differs from autograd's by {float(error.sqrt() / size):.1e} of "
            f"its norm (and its norm by {float(norm_error / size):.1e}): the model does something that the engine "
            "does not follow, or is not deterministic for a given random state."
        )


def tolerance(low: list[str], tensors: Iterable[torch.Tensor]) -> float:
    """Relative tolerance of comparisons: wider if a module ran under autocast or a tensor has low precision."""
    kinds = {tensor.dtype for tensor in tensors}
    if low or not kinds <= _TOLERANCE.keys():
        return _LOW_PRECISION_TOLERANCE
    return max(_TOLERANCE[kind] for kind in kinds)


def _groups(records: int) -> list[torch.Tensor]:
    """Masks [R] such that of any two records some mask holds the first alone, and some the second: bits and their
    complements of the records' numbers."""
    numbers = torch.arange(records)
    bits = [(numbers >> bit & 1).bool() for bit in range((records - 1).bit_length())]
    return [mask for one in bits for mask in (one, ~one)]


def gradients(loss: torch.Tensor, parameters: Iterable[nn.Parameter]) -> list[torch.Tensor | None]:
    """Gradients of `loss`; by `backward`, since re-entrant checkpointing does not work under `torch.autograd.grad`."""
    parameters = list(parameters)
    for parameter in parameters:
        parameter.grad = None
    try:
        loss.backward()
        return [parameter.grad for parameter in parameters]
    finally:
        for parameter in parameters:
            parameter.grad = None


@contextmanager
def watched(model: nn.Module) -> Iterator[list[str]]:
    """Yields a list of the modules of the model that ran under autocast, by name of their class."""
    low: list[str] = []

    def watch(module: nn.Module, _args: Any) -> None:
        if any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")):
            low.append(type(module).__name__)

    handles = [module.register_forward_pre_hook(watch) for module in model.modules()]
    try:
        yield low
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def repeatable(device: torch.device) -> Iterator[Any]:
    """Yields a function that rewinds the public random states (dropout), which are restored at the end."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        cpu_state = torch.get_rng_state()
        cuda_states = [torch.cuda.get_rng_state(d) for d in cuda]

        def restart() -> None:
            torch.set_rng_state(cpu_state)
            for d, state in zip(cuda, cuda_states, strict=True):
                torch.cuda.set_rng_state(state, d)

        yield restart


def _check_independence(
    model: nn.Module, record_losses: RecordLosses, before: torch.Tensor, chosen: torch.Tensor, allowed: float
) -> None:
    replaced = []

    def replace(_module: nn.Module, args: Any, kwargs: Any) -> Any:
        leaves, form = pytree.tree_flatten((_open(args), _open(kwargs)))
        changed = [_with_other_row(leaf, chosen, len(before)) for leaf in leaves]
        replaced.append(any(a is not b for a, b in zip(leaves, changed, strict=True)))
        new_args, new_kwargs = pytree.tree_unflatten(changed, form)
        return _closed(new_args), _closed(new_kwargs)

    handle = model.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        with torch.no_grad():
            after = record_losses()
    finally:
        handle.remove()
    if not any(replaced):
        raise UnsupportedModel(
            "no input of the model has the batch's records first, so it cannot be checked that records are "
            "independent. Call the model itself on the batch's tensors in record_losses."
        )
    moved = (after - before).abs() > allowed * (before.abs() + 1e-3)
    moved[chosen.to(moved.device)] = False
    if bool(moved.any()):
        raise UnsupportedModel(
            "a record's loss moved when other records' inputs were replaced: the model or the loss mixes the "
            "records of a batch (BatchNorm, a contrastive or otherwise batch-wise loss)."
        )


@dataclasses.dataclass
class _Opened:
    """A dataclass instance taken apart, so that its tensors can be reached."""

    original: Any
    values: dict[str, Any]


pytree.register_pytree_node(
    _Opened,
    lambda opened: (list(opened.values.values()), (opened.original, list(opened.values))),
    lambda values, context: _Opened(context[0], dict(zip(context[1], values, strict=True))),
)


def _open(tree: Any) -> Any:
    return pytree.tree_map(
        lambda leaf: (
            _Opened(leaf, dict(vars(leaf)))
            if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type) and hasattr(leaf, "__dict__")
            else leaf
        ),
        tree,
    )


def _closed(tree: Any) -> Any:
    return pytree.tree_map(
        lambda leaf: dataclasses.replace(leaf.original, **leaf.values) if isinstance(leaf, _Opened) else leaf,
        tree,
        is_leaf=lambda leaf: isinstance(leaf, _Opened),
    )


def _with_other_row(leaf: Any, chosen: torch.Tensor, records: int) -> Any:
    """Each row of `chosen` [R] becomes its neighbour's row, slightly changed if it holds real numbers."""
    if not isinstance(leaf, torch.Tensor) or leaf.dim() == 0 or leaf.shape[0] != records:
        return leaf
    chosen, changed, others = chosen.to(leaf.device), leaf.detach().clone(), leaf.detach().roll(1, 0)
    changed[chosen] = others[chosen] * 1.5 + 0.5 if leaf.is_floating_point() else others[chosen]
    return changed
