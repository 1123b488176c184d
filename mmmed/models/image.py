"""MONAI CNNs as encoders from an image or a volume to a sequence of feature tokens.

Every normalisation is GroupNorm: BatchNorm mixes the records of a batch, so one patient's gradient would
depend on another patient and clipping would bound nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mmmed._monai import DenseNet121, EfficientNetBN, ResNet
from mmmed.config import ModelConfig
from mmmed.data.batch import Input
from mmmed.errors import ModelError

NORM_GROUPS = 8
_GROUP_NORM = ("group", {"num_groups": NORM_GROUPS})
_RELU = ("relu", {"inplace": False})
_CLASSIFIERS = ("fc.", "class_layers.", "_fc.")  # left out of weights: the fusion has its own head


class ImageEncoder(nn.Module):
    """Images (R, channels, H, W) or volumes (R, channels, D, H, W) float -> (R, S, width) float.

    One token a position of the last feature map.
    """

    def __init__(self, trunk: nn.Module, width: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.width = width

    def forward(self, given: Input) -> torch.Tensor:
        features: torch.Tensor = self.trunk(given.values)  # [r, c, h, w]
        return features.flatten(2).transpose(1, 2)  # [r, h * w, c]


def _group_norm_throughout(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm, and let no activation overwrite its input, which per-record hooks still need.

    MONAI's ResNet passes its `norm` and `act` arguments to the first layer only.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            child.inplace = False
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, nn.GroupNorm(NORM_GROUPS, child.num_features))
        else:
            _group_norm_throughout(child)
    return module


def _resnet(layers: list[int], channels: int, first: int, dimensions: int = 2) -> ImageEncoder:
    stages = [first * factor for factor in (1, 2, 4, 8)]
    net = ResNet(
        "basic",
        layers,
        stages,
        spatial_dims=dimensions,
        n_input_channels=channels,
        conv1_t_size=7,
        conv1_t_stride=2,
        feed_forward=False,
        bias_downsample=False,
        act=_RELU,
        norm=_GROUP_NORM,
    )
    kept = ("conv1", "bn1", "act", "maxpool", "layer1", "layer2", "layer3", "layer4")
    trunk = nn.Sequential(OrderedDict((name, getattr(net, name)) for name in kept))
    return ImageEncoder(_group_norm_throughout(trunk), stages[-1])


def _densenet121(channels: int, config: ModelConfig) -> ImageEncoder:
    net = DenseNet121(spatial_dims=2, in_channels=channels, out_channels=1, act=_RELU, norm=_GROUP_NORM)
    trunk = nn.Sequential(OrderedDict(features=net.features, relu=nn.ReLU()))
    features = cast(nn.Linear, net.class_layers.out).in_features
    return ImageEncoder(_group_norm_throughout(trunk), features)


class _EfficientNetTrunk(EfficientNetBN):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = self._swish(self._bn0(self._conv_stem(self._conv_stem_padding(inputs))))
        x = self._conv_head(self._conv_head_padding(self._blocks(x)))
        return self._swish(self._bn1(x))


def _efficientnet_b0(channels: int, config: ModelConfig) -> ImageEncoder:
    net = _EfficientNetTrunk(
        "efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=channels, norm=_GROUP_NORM
    )
    width = net._fc.in_features
    del net._fc, net._avg_pooling, net._dropout
    return ImageEncoder(_group_norm_throughout(net), width)


_RESNETS = {"resnet10": [1, 1, 1, 1], "resnet18": [2, 2, 2, 2]}
_BUILDERS: dict[str, Callable[[int, ModelConfig], ImageEncoder]] = {
    "resnet10": lambda channels, config: _resnet(_RESNETS["resnet10"], channels, config.image_width),
    "resnet18": lambda channels, config: _resnet(_RESNETS["resnet18"], channels, config.image_width),
    "densenet121": _densenet121,
    "efficientnet-b0": _efficientnet_b0,
}


def build_image_encoder(config: ModelConfig, channels: int) -> ImageEncoder:
    """Build the encoder that `config.image` names, with its pretrained weights if it names a file.

    Raises:
        ModelError: the weight file is missing, is for another network, or carries BatchNorm statistics.
    """
    encoder = _BUILDERS[config.image](channels, config)
    if config.image_weights:
        _load_weights(encoder.trunk, Path(config.image_weights), config.image)
    return encoder


def build_volume_encoder(config: ModelConfig) -> ImageEncoder:
    """Build the 3D encoder that `config.volume` names, of one input channel."""
    return _resnet(_RESNETS[config.volume], 1, config.volume_width, dimensions=3)


def _load_weights(trunk: nn.Module, path: Path, name: str) -> None:
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        raise ModelError(f"model.image_weights: {path} cannot be read as weights: {error}") from error
    except Exception as error:  # torch.load raises pickle's own errors on foreign content
        raise ModelError(f"model.image_weights: {path} is not a plain tensor file: {error}") from error
    state = cast(dict[str, torch.Tensor], state.get("state_dict", state))
    statistics = [key for key in state if key.endswith(("running_mean", "running_var"))]
    if statistics:
        raise ModelError(
            f"model.image_weights: {path} was trained with BatchNorm ('{statistics[0]}', {len(statistics)} in all). "
            "Its features depend on batch statistics that GroupNorm does not have, and BatchNorm cannot be trained "
            "privately. Give weights of the same network trained with GroupNorm"
        )
    state = {key: value for key, value in state.items() if not key.startswith(_CLASSIFIERS)}
    own = trunk.state_dict()
    different = sorted(own.keys() ^ state.keys()) or [
        key for key in own if own[key].shape != state[key].shape
    ]
    if different:
        key = different[0]
        wanted, found = (tuple(part[key].shape) if key in part else "absent" for part in (own, state))
        raise ModelError(
            f"model.image_weights: {path} does not fit {name} ({len(different)} entries differ): "
            f"'{key}' must be {wanted}. Found {found}"
        )
    trunk.load_state_dict(state)
