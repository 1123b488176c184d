"""Exact per-unit clipping in one forward and one backward pass.

Book-keeping (Bu et al. 2023, "Differentially Private Optimization on Large Model at Small Cost", Alg. 1): the
backward pass computes gradients with respect to activations only. For each use of a parameter it writes down
either the units' gradients or the pair they are made of, with their squared norms; once all norms are known,
one weighted reduction per parameter gives the clipped sum. That reduction replaces the weight gradient which
the backward pass left out, hence a cost close to an ordinary step's.
"""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import nn
from torch.autograd.graph import _engine_run_backward

from privacy.clipping import (  # noqa: F401  (their rules)
    activation,
    attention,
    conv,
    embedding,
    linear,
    norm,
    parameter,
    recurrent,
)
from privacy.clipping.book import Book
from privacy.clipping.engine import Clipped, Factors, RecordLosses, weighted_losses
from privacy.clipping.operators import Tracking
from privacy.clipping.rules import Groups
from privacy.clipping.shared import Constants, Shared
from privacy.clipping.units import Units
from privacy.clipping.use import wide
from privacy.clipping.validate import trainable
from privacy.errors import UntrackedParameter

# The backward pass frees the inputs of one layer after another, which makes room for that much.
MEMORY_SHARE = 0.5


class BookkeepingEngine:
    """Attaches nothing to the model: operators are seen only while `clipped` runs."""

    strict = True

    def __init__(self, model: nn.Module, memory_share: float = MEMORY_SHARE) -> None:
        """
        Args:
            model: in training or evaluation mode.
            memory_share: bytes that per-unit gradients may take through a backward pass, beyond what they are made
                of, as a share of the bytes of the layers' inputs.
        """
        self._parameters = trainable(model)
        self._memory_share = memory_share
        frozen = (p for p in model.parameters() if not p.requires_grad)
        self._constants = Constants([*model.buffers(), *frozen])
        self._seen_apart: set[Hashable] = set()

    def clipped(
        self, record_losses: RecordLosses, units: Units, factors: Factors, groups: Groups | None = None
    ) -> Clipped:
        self._constants.forget()
        shared = Shared(self._parameters, self._constants)
        book = Book(shared, units, self._memory_share, self._seen_apart, groups)
        self._clear()
        try:
            with Tracking(book):
                _backward(weighted_losses(record_losses, units).sum())
            stray = [
                name for name, p in self._parameters.items() if p.grad is not None or name in shared.strays
            ]
        finally:
            self._clear()
        if stray and self.strict:
            raise UntrackedParameter(
                f"{stray[0]}: {len(stray)} parameter(s) take part in an operator whose per-record gradient is not "
                "known. Use a layer or operator that has a rule (docs/dpsgd-engine.md), or pass raw parameters "
                "through privacy.clipping.per_record."
            )
        norms = book.norms()
        total = norms[0] if groups is None else norms.square().sum(0).sqrt()
        sums = book.sums(factors(norms[0])[None] if groups is None else factors(norms))
        shaped = {
            name: wide(sums[name]).view(p.shape) if name in sums else torch.zeros_like(wide(p))
            for name, p in self._parameters.items()
        }
        return Clipped(shaped, total)

    def _clear(self) -> None:
        for p in self._parameters.values():
            p.grad = None


def _backward(loss: torch.Tensor) -> None:
    """`loss.backward()` with the tracking mode left on, for checkpointed blocks: the public call suspends it."""
    _engine_run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )
