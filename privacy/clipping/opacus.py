"""Opacus' own engines: per-record gradients by hooks, and ghost clipping by a second backward pass.

Both compute a per-record gradient for each use of a parameter *inside a module they hook*. A use elsewhere
(a tied weight in a functional call, say) is seen by autograd alone, so what the hooks found is checked
against autograd's own gradient before anything is released.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.grad_sample.grad_sample_module import GradSampleHooks
from opacus.layers.dp_rnn import DPGRU, DPLSTM, DPRNN
from opacus.validators import ModuleValidator
from torch import nn

from privacy.clipping.book import RESERVE
from privacy.clipping.engine import Clipped, Factors, RecordLosses, weighted_losses
from privacy.clipping.rules import Groups
from privacy.clipping.units import Units
from privacy.clipping.use import squared_norms, wide
from privacy.clipping.validate import trainable
from privacy.errors import StepError, UnsupportedModel, UntrackedParameter

_TOLERANCE = {
    torch.float64: 1e-6,
    torch.float32: 1e-4,
}  # of the check against autograd, relative to all gradients
_LOW_PRECISION_TOLERANCE = 5e-2
_LARGE = 1e15


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

    def _hear(self, module: nn.Module, gradient: torch.Tensor, options: dict[str, Any]) -> Any:
        """Take note of an output's gradient. What is returned takes its place."""
        self.capture_backprops_hook(
            module, None, (gradient,), options["loss_reduction"], options["batch_first"]
        )


class _HooksModule(_TensorHooks, GradSampleModule):
    """Per-record gradients."""


_Sampler = Callable[..., dict[nn.Parameter, torch.Tensor]]


def _in_double(sampler: _Sampler) -> _Sampler:
    """Opacus' norm of a layer's gradient from Gram matrices, in which small numbers vanish and large ones cancel.

    With the reserve for rounding in the second pass, as in `privacy.clipping.book`.
    """

    def sample(layer: nn.Module, activations: list[torch.Tensor], backprops: torch.Tensor) -> Any:
        reserve = RESERVE / 2 * torch.finfo(wide(backprops).dtype).eps
        given = [a.double() if a.is_floating_point() else a for a in activations]
        backprops = backprops.double()
        positions = backprops[0].numel() / backprops.shape[-1]
        sizes = [
            torch.linalg.vector_norm(t.flatten(1), dim=1)
            for t in (backprops, *given)
            if t.is_floating_point()
        ]
        reach = reserve * sizes[0] * sizes[-1].clamp(min=positions**0.5)
        return {p: torch.hypot(norm, reach) for p, norm in sampler(layer, given, backprops).items()}

    return sample


class _GhostModule(_TensorHooks, GradSampleModuleFastGradientClipping):
    """Per-record norms.

    To the layers that are trained, numbers beyond 1e15 are 1e15 and NaN is 0, and gradients that are not finite are 0
    once they are heard, which makes the norm infinite: the second pass sums over all records at once, and 0 times
    infinity would reach every other record's gradient.
    """

    NORM_SAMPLERS: ClassVar = {
        kind: _in_double(sampler)
        for kind, sampler in GradSampleModuleFastGradientClipping.NORM_SAMPLERS.items()
    }

    def add_hooks(self, **options: Any) -> None:
        super().add_hooks(**options)
        handles = cast(list[Any], self._module.autograd_grad_sample_hooks)
        for module in self.iterate_submodules(self._module):
            handles.append(module.register_forward_pre_hook(lambda _, args: tuple(map(_finite, args))))

    def _hear(self, module: nn.Module, gradient: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        super()._hear(module, gradient, options)
        return torch.nan_to_num(gradient, 0.0, 0.0, 0.0)


def _finite(value: Any) -> Any:
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return value
    limit = min(_LARGE, torch.finfo(value.dtype).max)
    return torch.nan_to_num(value, 0.0).clamp(-limit, limit)


def _refuse_recurrent(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase) and any(p.requires_grad for p in module.parameters()):
            dp = {nn.LSTM: "DPLSTM", nn.GRU: "DPGRU"}.get(type(module), "DPRNN")
            raise UnsupportedModel(
                f"{name or 'the model'} ({type(module).__name__}): its fused kernel gives Opacus one gradient for the "
                f"whole batch. Take engine='bookkeeping', or opacus.layers.{dp}, which takes the same arguments."
            )


class _OpacusEngine:
    """What the two modes share: Opacus' validation, and a clean slate before and after each pass."""

    strict = True

    def __init__(self, model: nn.Module, wrapper: Callable[..., GradSampleModule]) -> None:
        _detach(model)
        _refuse_recurrent(model)
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
            per_record = self._per_record(units.records)
            if self.strict:
                self._check_sums(per_record)
        per_unit = {name: wide(units.sum(rows)) for name, rows in per_record.items()}
        squares = {name: squared_norms(rows.reshape(len(rows), -1)) for name, rows in per_unit.items()}
        device = next(iter(self._parameters.values())).device
        by_group = torch.zeros(groups.count if groups else 1, units.count, dtype=torch.float64, device=device)
        for name, own in squares.items():
            by_group[groups.of[name] if groups else 0] += own
        norms = by_group.sum(0).sqrt()
        scale = factors(by_group.sqrt()) if groups else factors(norms)[None]
        sums = {name: torch.zeros_like(wide(p)) for name, p in self._parameters.items()}
        for name, gradients in per_unit.items():
            own = scale[groups.of[name] if groups else 0].to(gradients.dtype)
            gradients[own == 0] = 0.0
            sums[name] = torch.einsum("p,p...->...", own, gradients)
        return Clipped(sums, norms)

    def _per_record(self, records: int) -> dict[str, torch.Tensor]:
        """The gradients of the records, by name, of what the batch used.

        Raises:
            UntrackedParameter: some are not known. Once tried on, they are left out.
        """
        found = {}
        for name, parameter in self._parameters.items():
            rows: torch.Tensor | None = parameter.grad_sample  # type: ignore[attr-defined]
            if isinstance(rows, torch.Tensor) and len(rows) == records and parameter.grad is not None:
                found[name] = rows
            elif self.strict and (rows is not None or parameter.grad is not None):
                count = "none" if rows is None else f"{len(rows)}"
                raise UntrackedParameter(
                    f"{name}: expected the gradients of {records} records, found {count}. Its layer mixes or repeats "
                    "records, or takes its inputs in a way that Opacus' hooks do not see: use engine='bookkeeping'."
                )
        return found

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
            (losses * factors(norms)[units.index].to(losses.dtype)).sum().backward()
            sums = {
                name: torch.zeros_like(wide(p)) if p.grad is None else wide(p.grad.detach())
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
            squares.append(norm.flatten().double().square())
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
