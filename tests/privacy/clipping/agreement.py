"""Compare the book-keeping engine with the definition: one record at a time, in float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from privacy.clipping import book
from privacy.clipping.bookkeeping import BookkeepingEngine
from privacy.clipping.engine import Clipped
from privacy.clipping.rules import Groups, clip_factors, group_factors
from privacy.clipping.units import Units
from privacy.clipping.validate import trainable
from tests.oracles.clipping import clipped_sum

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}

Call = Callable[..., torch.Tensor]


def record_losses(
    call: Call, model: nn.Module, inputs: tuple[torch.Tensor, ...], rows: slice
) -> torch.Tensor:
    """A different bounded function of each record's output, [R]."""
    outputs = call(model, *(x[rows] for x in inputs)).flatten(1)
    generator = torch.Generator().manual_seed(3)
    records = inputs[0].shape[0]
    weights = torch.randn(records, outputs.shape[1], generator=generator, dtype=torch.float64)[rows]
    return ((outputs + outputs.square() / 4) * weights.to(outputs.dtype)).sum(1) / math.sqrt(outputs.shape[1])


def forced(way: str | None) -> ExitStack:
    """Make the engine find norms in one way, where the layer has it."""
    stack = ExitStack()
    if way is not None:

        def choose(cost: Any, *_: object) -> str:
            return "recompute" if way == "ghost" and not math.isfinite(cost.ghost) else str(way)

        stack.enter_context(patch.object(book, "choose", choose))
        stack.enter_context(patch.object(book, "_PART_BYTES", 64))  # parts of one or two units
    return stack


def check(
    model: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    units: torch.Tensor,
    *,
    dtype: torch.dtype = torch.float64,
    clipping: str = "flat",
    way: str | None = None,
    call: Call = lambda model, *inputs: model(*inputs),
    tolerance: float | None = None,
) -> Clipped:
    """Assert that norms and clipped sums agree, relative to the largest. Groups are the model's children, evenly."""

    def cast(kind: torch.dtype) -> tuple[torch.Tensor, ...]:
        return tuple(x.to(kind) if x.is_floating_point() else x for x in inputs)

    model = copy.deepcopy(model).to(dtype)
    exact = cast(torch.float64)

    def one_record(reference: nn.Module, r: int) -> torch.Tensor:
        return record_losses(call, reference, exact, slice(r, r + 1)).sum()

    bound = float(clipped_sum(model, one_record, units, 1.0).norms.median()) or 1.0  # about half are clipped
    groups = Groups(trainable(model)) if clipping == "per-group" else None
    bounds = groups and {name.partition(".")[0]: bound / groups.count**0.5 for name in groups.of}
    expected = clipped_sum(model, one_record, units, bound, clipping, bounds)
    mine = cast(dtype)

    def factors(norms: torch.Tensor) -> torch.Tensor:
        if groups is not None:
            return group_factors(norms, bound, groups)
        return clip_factors(norms, bound, clipping)  # type: ignore[arg-type]

    with forced(way):
        found = BookkeepingEngine(model).clipped(
            lambda: record_losses(call, model, mine, slice(None)), Units.of(units), factors, groups
        )
    limit = TOLERANCE[dtype] if tolerance is None else tolerance
    norm_error = (found.norms.double() - expected.norms).abs().max() / expected.norms.max().clamp(min=1e-300)
    assert float(norm_error) <= limit, f"norms differ by {float(norm_error):.1e}"
    sizes = expected.factors * expected.norms if groups is None else expected.norms.clamp(max=bound)
    scale = sizes.sum().clamp(min=1e-300)  # the clipped gradients may cancel
    assert found.sums.keys() == expected.sums.keys()
    for name, value in expected.sums.items():
        assert found.sums[name].dtype == dtype
        error = float((found.sums[name].double() - value).norm() / scale)
        assert error <= limit, f"{name} differs by {error:.1e}"
    assert all(p.grad is None for p in model.parameters())
    return found
