"""From a RunConfig to a model, and which of its parameters are trained."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmmed.config import RunConfig
from mmmed.errors import ModelError
from mmmed.modalities import MODALITIES
from mmmed.models.decoder import Decoder, writing
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
        fusion, task = config.model.fusion, config.task
        decoder, kind = task.decoder(config), fusion.load()
        model: MultimodalModel
        if decoder is None:
            model = kind(encoders, outputs=task.target().outputs, **fusion.options())
        else:
            model = writing(kind)(encoders, outputs=decoder.reads, **fusion.options())
            model.decoder = decoder
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
    which those that `Modality.joins_fusion` says count as fusion, and but a decoder whose weights were given; "lora":
    the same and the low-rank adapters of the text encoder and such a decoder (arXiv 2106.09685).
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
            is_encoder = name in model.modalities and not MODALITIES[name].joins_fusion
            module.requires_grad_(not is_encoder and not (isinstance(module, Decoder) and module.is_given))
        for name, parameter in model.named_parameters():
            if is_adapter(name):
                parameter.requires_grad_(True)


def trainable_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The trainable parameters by name, detached: exactly what travels between a site and the server."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
