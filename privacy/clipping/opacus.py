"""Opacus' own engines: per-record gradients by hooks, and ghost clipping by a second backward pass.

Both compute a per-record gradient for each use of a parameter *inside a module they hook*. A use elsewhere
(a tied weight in a functional call, say) is seen by autograd alone, so what the hooks found is checked
against autograd's own gradient before anything is released.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.grad_sample.grad_sample_module import GradSampleHooks
from opacus.layers.dp_rnn import DPGRU, DPLSTM, DPRNN
from opacus.validators import ModuleValidator
from torch import nn

from privacy.clipping.engine import Clipped, Factors, RecordLosses, weighted_losses
from privacy.clipping.rules import Groups
from privacy.clipping.units import Units
from privacy.clipping.validate import trainable
from privacy.errors import StepError, UnsupportedModel, UntrackedParameter

_TOLERANCE = {
    torch.float64: 1e-6,
    torch.float32: 1e-4,
}  # of the check against autograd, relative to all gradients
_LOW_PRECISION_TOLERANCE = 5e-2


class _TensorHooks(GradSampleHooks):
    """Opacus' hooks, reading output gradients from the output tensors.

    Full backward hooks, which Opacus uses, forbid to change a layer's output in place (`out += residual`).
    """

    def add_hooks(self, **options: Any) -> None:
        super().add_hooks(**options)
        handles = cast(list[Any], self._module.autograd_grad_sample_hooks)
        forward, backward = handles[::2], handles[1::2]  # Opacus adds them in pairs
        for handle in backward:
            handle.remove()

        def listen(module: nn.Module, _args: Any, output: Any) -> None:
            tensor = output if isinstance(output, torch.Tensor) else output[0]
            if self.hooks_enabled and tensor.requires_grad:
                tensor.register_hook(lambda gradient: self._hear(module, gradient, options))

        modules = [m for m in self.iterate_submodules(self._module) if type(m) not in (DPRNN, DPLSTM, DPGRU)]
        handles[:] = [*forward, *(module.register_forward_hook(listen) for module in modules)]

    def _hear(self, module: nn.Module, gradient: torch.Tensor, options: dict[str, Any]) -> None:
        self.capture_backprops_hook(
            module, None, (gradient,), options["loss_reduction"], options["batch_first"]
        )


class _HooksModule(_TensorHooks, GradSampleModule):
    """Per-record gradients."""


class _GhostModule(_TensorHooks, GradSampleModuleFastGradientClipping):
    """Per-record norms."""


class _OpacusEngine:
    """What the two modes share: Opacus' validation, and a clean slate before and after each pass."""

    def __init__(self, model: nn.Module, wrapper: Callable[..., GradSampleModule]) -> None:
        _detach(model)
        errors = ModuleValidator.validate(model, strict=False)
        if errors:
            raise UnsupportedModel(f"Opacus refuses the model: {errors[0]}")
        self._model = model
        self._parameters = trainable(model)
        self._records = 0
        try:
            self._wrapper = wrapper(model, loss_reduction="sum")
        except NotImplementedError as error:
            raise UnsupportedModel(f"Opacus refuses the model: {error}") from error
        self._wrapper.disable_hooks()
        for module in list(model.modules()):
            if isinstance(module, nn.Embedding):
                handle = module.register_forward_pre_hook(self._one_row_a_record)
                cast(list[Any], model.autograd_grad_sample_hooks).append(handle)

    def _one_row_a_record(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        # Ids (1, T) shared by all records (positions, token types) would get one gradient for the whole batch.
        if not self._wrapper.hooks_enabled or not args:
            return None
        ids = args[0].expand(self._records, -1) if args[0].dim() == 2 and args[0].shape[0] == 1 else args[0]
        return (ids.contiguous(), *args[1:])  # Opacus' ghost norm of an embedding takes contiguous ids only

    @contextmanager
    def _pass(self, records: int) -> Iterator[None]:
        if not self._model.training:
            raise UnsupportedModel("Opacus tracks a model in training mode only: call model.train().")
        self._records = records
        self._forget()
        self._wrapper.enable_hooks()
        try:
            yield
        finally:
            self._wrapper.disable_hooks()
            self._forget()

    def _forget(self) -> None:
        """Leave no trace of this or an interrupted pass on modules and parameters."""
        for parameter in self._parameters.values():
            parameter.grad = None
            parameter.grad_sample = None  # type: ignore[attr-defined]
            parameter._forward_counter = 0  # type: ignore[attr-defined]
            for name in ("_current_grad_sample", "_norm_sample"):
                if hasattr(parameter, name):
                    delattr(parameter, name)
        for module in self._model.modules():
            for name in ("activations", "max_batch_len"):
                module.__dict__.pop(name, None)


def _detach(model: nn.Module) -> None:
    """Take an earlier engine's hooks off the model: a new step may be made for a model in training."""
    for handle in model.__dict__.pop("autograd_grad_sample_hooks", ()):
        handle.remove()


class HooksEngine(_OpacusEngine):
    """`GradSampleModule`: per-record gradients of every parameter, kept for the whole batch."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, _HooksModule)

    def clipped(
        self, record_losses: RecordLosses, units: Units, factors: Factors, groups: Groups | None = None
    ) -> Clipped:
        with self._pass(units.records):
            weighted_losses(record_losses, units).sum().backward()
            per_record = {
                name: self._per_record(name, parameter, units.records)
                for name, parameter in self._parameters.items()
                if parameter.grad is not None or parameter.grad_sample is not None  # type: ignore[attr-defined]
            }
            self._check_sums(per_record)
        per_unit = {
            name: units.sum(rows).to(self._parameters[name].dtype) for name, rows in per_record.items()
        }
        squares = {name: gradients.flatten(1).square().sum(1) for name, gradients in per_unit.items()}
        norms = torch.stack(list(squares.values())).sum(0).sqrt()
        scale = {name: factors(norms) for name in per_unit} if groups is None else {}
        if groups is not None:
            by_group = norms.new_zeros(groups.count, units.count)
            for name, own in squares.items():
                by_group[groups.of[name]] += own
            rows = factors(by_group.sqrt())
            scale = {name: rows[groups.of[name]] for name in per_unit}
        sums = {name: torch.zeros_like(p) for name, p in self._parameters.items()}
        for name, gradients in per_unit.items():
            gradients[~torch.isfinite(norms)] = 0.0
            sums[name] = torch.einsum("p,p...->...", scale[name].to(gradients.dtype), gradients)
        return Clipped(sums, norms)

    def _per_record(self, name: str, parameter: nn.Parameter, records: int) -> torch.Tensor:
        rows: torch.Tensor | None = parameter.grad_sample  # type: ignore[attr-defined]
        if not isinstance(rows, torch.Tensor) or len(rows) != records or parameter.grad is None:
            found = "none" if rows is None else f"{len(rows)}"
            raise UntrackedParameter(
                f"{name}: expected the gradients of {records} records, found {found}. Its layer mixes or repeats "
                "records, or takes its inputs in a way that Opacus' hooks do not see: use engine='bookkeeping'."
            )
        return rows

    def _check_sums(self, per_record: dict[str, torch.Tensor]) -> None:
        """What the hooks found must add up to what autograd found."""
        size = torch.stack([rows.flatten(1).norm(dim=1).sum().float() for rows in per_record.values()]).norm()
        if not bool(torch.isfinite(size)):
            return  # a record without a finite gradient is left out of the sum
        for name, rows in per_record.items():
            batch = cast(torch.Tensor, self._parameters[name].grad)
            low = rows.dtype not in _TOLERANCE or torch.is_autocast_enabled(rows.device.type)
            tolerance = _LOW_PRECISION_TOLERANCE if low else _TOLERANCE[rows.dtype]
            if not bool((rows.sum(0).to(batch.dtype) - batch).norm() <= tolerance * size):
                raise UntrackedParameter(
                    f"{name}: the per-record gradients do not add up to the batch's gradient, so part of its use is "
                    "outside the layers that Opacus hooks (a tied or functional use): use engine='bookkeeping'."
                )


class GhostEngine(_OpacusEngine):
    """`GradSampleModuleFastGradientClipping`: per-record norms, then a second backward pass. Records only."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, _GhostModule)

    def clipped(
        self, record_losses: RecordLosses, units: Units, factors: Factors, groups: Groups | None = None
    ) -> Clipped:
        if groups is not None:
            raise StepError(
                "engine='ghost' clips the whole gradient only: use engine='bookkeeping' or 'hooks'."
            )
        if units.count != units.records:
            raise StepError(
                "engine='ghost' clips single records, but a unit has several: use engine='bookkeeping' or 'hooks'."
            )
        with self._pass(units.records):
            try:
                losses = weighted_losses(record_losses, units)
                self._refuse_other_uses(losses)
                losses.sum().backward(retain_graph=True)
            except NotImplementedError as error:
                raise UnsupportedModel(f"Opacus' ghost clipping refuses the model: {error}") from error
            norms = self._norms(units.records)
            for parameter in self._parameters.values():
                parameter.grad = None
            self._wrapper.disable_hooks()
            if not bool(torch.isfinite(norms).all()):
                raise StepError(
                    "a record's gradient is not finite, and engine='ghost' cannot leave it out: "
                    "check the inputs, or use engine='bookkeeping'."
                )
            (losses * factors(norms)[units.index]).sum().backward()
            sums = {
                name: torch.zeros_like(p) if p.grad is None else p.grad.detach()
                for name, p in self._parameters.items()
            }
        return Clipped(sums, norms)

    def _norms(self, records: int) -> torch.Tensor:
        squares = []
        for name, parameter in self._parameters.items():
            norm: torch.Tensor | None = getattr(parameter, "_norm_sample", None)
            if norm is None and parameter.grad is None:
                continue  # not used in this batch
            if norm is None or norm.shape[0] != records or parameter.grad is None:
                raise UntrackedParameter(
                    f"{name}: Opacus found no per-record norm: use engine='bookkeeping'."
                )
            squares.append(norm.flatten().square())
        return torch.stack(squares).sum(0).sqrt()

    def _refuse_other_uses(self, losses: torch.Tensor) -> None:
        """A parameter must be used once: Opacus has no norm for the sum of several uses."""
        names = {parameter: name for name, parameter in self._parameters.items()}
        for parameter, uses in _uses(losses).items():
            hooked = parameter._forward_counter  # type: ignore[attr-defined]
            if parameter in names and (uses > 1 or hooked != 1):
                raise UntrackedParameter(
                    f"{names[parameter]}: used {uses} times by autograd and {hooked} times by hooked layers. "
                    "engine='ghost' follows one use in one layer: use engine='bookkeeping'."
                )


def _uses(losses: torch.Tensor) -> dict[nn.Parameter, int]:
    """How often autograd's graph reads each leaf (through casts, which autocast shares between readers)."""
    uses: dict[nn.Parameter, int] = {}
    readers: dict[Any, int] = {}
    stack, seen = [losses.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for child, _ in node.next_functions:
            if child is None:
                continue
            readers[child] = readers.get(child, 0) + 1
            stack.append(child)
    for node in seen:
        for leaf, _ in node.next_functions:
            parameter = getattr(leaf, "variable", None)
            if parameter is not None:
                casts = readers[node] if "ToCopy" in node.name() else 1
                uses[parameter] = uses.get(parameter, 0) + casts
    return uses
