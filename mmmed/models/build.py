"""From a RunConfig to a model, and which of its parameters are trained."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmmed.config import RunConfig
from mmmed.errors import ModelError
from mmmed.modalities import MODALITIES
from mmmed.models.lora import is_adapter
from mmmed.models.multimodal import MultimodalModel

_NORMALISATIONS = (nn.GroupNorm, nn.LayerNorm, _BatchNorm)


def build_model(config: RunConfig) -> MultimodalModel:
    """Build the model; parameters that no weight file gives are drawn from `training.seed`.

    Every member of a run builds equal parameters. The caller's random state is left as it was.

    Raises:
        ModelError: see `mmmed.modalities.Modality.encoder`; or a weight is not float32 once loaded.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        encoders = {name: MODALITIES[name].encoder(config) for name in config.data.modalities}
        fusion = config.model.fusion
        model: MultimodalModel = fusion.load()(
            encoders, outputs=config.task.target().outputs, **fusion.options()
        )
    _check_types(model)
    set_trainable(model, config.model.trainable)
    return model.train()


def _check_types(model: MultimodalModel) -> None:
    """Every parameter in float32, in which gradients are clipped and noise is added."""
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise ModelError(
                f"model.{name.partition('.')[0]}: its weights must be float32 once loaded, but {name} is "
                f"{parameter.dtype}. Give weights that are not quantised"
            )


def set_trainable(model: MultimodalModel, trainable: str) -> None:
    """Freeze what is not in the trainable set.

    "full"; "norm-bias" (BitFit, arXiv 2106.10199) and the head; "fusion-head": all but the encoders, of
    which those that `Modality.joins_fusion` says count as fusion; "lora": the same and the text encoder's low-rank
    adapters (arXiv 2106.09685).
    """
    model.requires_grad_(trainable == "full")
    if trainable == "norm-bias":
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if isinstance(module, _NORMALISATIONS) or name == "bias":
                    parameter.requires_grad_(True)
        model.head.requires_grad_(True)
    elif trainable in ("fusion-head", "lora"):
        for name, module in model.named_children():
            module.requires_grad_(name not in model.modalities or MODALITIES[name].joins_fusion)
        for name, parameter in model.named_parameters():
            if is_adapter(name):
                parameter.requires_grad_(True)


def trainable_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The trainable parameters by name, detached: exactly what travels between a site and the server."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
