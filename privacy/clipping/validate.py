"""What a model and its optimiser may not be, as one record would then reach another's gradient or a public buffer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from privacy.errors import StepError, UnsupportedModel


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name, each once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def validate_model(model: nn.Module) -> None:
    """Refuse what no engine can make private.

    Raises:
        UnsupportedModel: nothing is trainable, a parameter is not a floating-point tensor, BatchNorm in training
            mode, running statistics, or a layer that drops whole batches. The module is named.
    """
    parameters = trainable(model)
    if not parameters:
        raise UnsupportedModel("No parameter of the model requires a gradient: there is nothing to train.")
    for name, parameter in parameters.items():
        if not parameter.is_floating_point() or parameter.layout != torch.strided:
            raise UnsupportedModel(
                f"{name}: only dense real parameters can be trained. Found {parameter.dtype}."
            )
    for name, module in model.named_modules():
        reason = _reason_against(module)
        if reason:
            raise UnsupportedModel(f"{name or 'the model'} ({type(module).__name__}): {reason}")


def _reason_against(module: nn.Module) -> str | None:
    if isinstance(module, _BatchNorm) and (module.training or not module.track_running_stats):
        return (
            "batch statistics mix the records of a batch, so no record's gradient can be bounded. "
            "Use GroupNorm, or freeze the layer and put it in evaluation mode."
        )
    if isinstance(module, _InstanceNorm) and module.track_running_stats and module.training:
        return "running statistics would be released without noise. Build it with track_running_stats=False."
    if getattr(module, "mode", None) == "batch" and type(module).__name__ == "StochasticDepth":
        return "it drops a layer for the whole batch at once. Use mode='row'."
    return None


def validate_optimizer(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
    """Refuse an optimiser that does not hold the `parameters`, or another trainable one as well.

    Raises:
        StepError: it lacks one; its name is told.
        UnsupportedModel: it holds another.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
    missing = [name for name, p in parameters.items() if id(p) not in held]
    if missing:
        raise StepError(f"{missing[0]} is trainable but the optimizer does not hold it. Give it all of them.")
    if len(held) > len(parameters):
        raise UnsupportedModel("The optimizer holds a trainable parameter that is not the model's.")


class BufferGuard:
    """Notices a buffer that a forward pass wrote or replaced (running statistics, spectral norm, caches)."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._before = self._state()

    def _state(self) -> dict[str, tuple[int, int]]:
        return {name: (id(buffer), buffer._version) for name, buffer in self._model.named_buffers()}

    def check(self) -> None:
        """
        Raises:
            UnsupportedModel: a buffer changed since this guard was made.
        """
        after = self._state()
        changed = [name for name in after if self._before.get(name) != after[name]]
        if changed:
            raise UnsupportedModel(
                f"buffer {changed[0]}: the forward pass wrote to it, so it would carry records out without noise. "
                "Remove the layer that keeps it, or put it in evaluation mode."
            )
