"""From a RunConfig to a model, and which of its parameters are trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from mmmed.config import RunConfig
from mmmed.models.fusion import Encoder, FusionModel
from mmmed.models.image import build_image_encoder, build_volume_encoder
from mmmed.models.text import build_text_encoder

_NORMALISATIONS = (nn.GroupNorm, nn.LayerNorm)

_ENCODERS: dict[str, Callable[[RunConfig], Encoder]] = {
    "image": lambda config: build_image_encoder(config.model, config.data.image_channels),
    "volume": lambda config: build_volume_encoder(config.model),
    "text": lambda config: build_text_encoder(config.model, config.data),
}


def output_count(config: RunConfig) -> int:
    """Logits of the head: one for two classes, else one a class."""
    classes = len(config.task.classes)
    return 1 if classes == 2 else classes


def build_model(config: RunConfig) -> FusionModel:
    """Build the model; parameters that no weight file gives are drawn from `training.seed`.

    Every member of a run builds equal parameters. The caller's random state is left as it was.

    Raises:
        ModelError: see `mmmed.models.image` and `mmmed.models.text`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        model = FusionModel(
            {name: _ENCODERS[name](config) for name in config.data.modalities},
            width=config.model.fusion_dim,
            heads=config.model.fusion_heads,
            layers=config.model.fusion_layers,
            dropout=config.model.dropout,
            outputs=output_count(config),
        )
    set_trainable(model, config.model.trainable)
    return model


def set_trainable(model: FusionModel, trainable: str) -> None:
    """Freeze what is not in the trainable set: "full", "norm-bias" (BitFit, arXiv 2106.10199), "fusion-head"."""
    for parameter in model.parameters():
        parameter.requires_grad_(trainable == "full")
    if trainable == "norm-bias":
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if isinstance(module, _NORMALISATIONS) or name == "bias":
                    parameter.requires_grad_(True)
        model.head.requires_grad_(True)
    elif trainable == "fusion-head":
        for name, module in model.named_children():
            module.requires_grad_(name not in model.modalities)


def trainable_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The trainable parameters by name, detached: exactly what travels between a site and the server."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
