"""Per-unit clipping as its definition says: one unit at a time, in float64, by plain autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

RecordLoss = Callable[[nn.Module, int], torch.Tensor]


class Expected(NamedTuple):
    norms: torch.Tensor  # float64 [P]
    sums: dict[str, torch.Tensor]  # float64
    factors: torch.Tensor  # float64 [P]


def clipped_sum(
    model: nn.Module,
    record_loss: RecordLoss,
    units: torch.Tensor,
    max_grad_norm: float,
    clipping: str = "flat",
    bounds: dict[str, float] | None = None,
) -> Expected:
    """`record_loss(model, r)` is the scalar loss of record r computed on that record alone.

    `bounds`: for "per-group", the clipping norm of the parameters whose names' first parts are each key; `factors`
    are then the last group's.
    """
    model = copy.deepcopy(model).double()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p.detach()) for name, p in parameters.items()}
    norms, factors = [], []
    for unit in units.unique().tolist():
        records = [r for r in range(len(units)) if units[r] == unit]
        model.zero_grad()
        for r in records:
            (record_loss(model, r) / len(records)).backward()
        gradient = {
            n: torch.zeros_like(p.detach()) if p.grad is None else p.grad for n, p in parameters.items()
        }
        norm = sum(g.square().sum() for g in gradient.values()).sqrt()
        for prefix, bound in (bounds or {"": max_grad_norm}).items():
            own = [name for name in gradient if f"{name}.".startswith(f"{prefix}." if prefix else "")]
            size = sum(gradient[name].square().sum() for name in own).sqrt()
            if clipping == "automatic":
                factor = bound / (size + 0.01)
            else:
                factor = bound / size if size > bound else torch.ones_like(size)
            for name in own:
                sums[name] += factor * gradient[name]
        norms.append(norm)
        factors.append(factor)
    return Expected(torch.stack(norms), sums, torch.stack(factors))
