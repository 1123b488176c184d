"""MONAI's CNNs without their classifiers, as they come: with BatchNorm. Each is given with the channels it puts out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import cast

import torch
from torch import nn

from mmmed._monai import DenseNet121, EfficientNetBN, ResNet
from mmmed.modalities.image import ImageModel
from mmmed.modalities.volume import VolumeModel

_RELU = ("relu", {"inplace": False})


def _resnet(layers: list[int], channels: int, first: int, dimensions: int = 2) -> tuple[nn.Module, int]:
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
    )
    kept = ("conv1", "bn1", "act", "maxpool", "layer1", "layer2", "layer3", "layer4")
    return nn.Sequential(OrderedDict((name, getattr(net, name)) for name in kept)), stages[-1]


def _densenet121(channels: int, config: ImageModel) -> tuple[nn.Module, int]:
    net = DenseNet121(spatial_dims=2, in_channels=channels, out_channels=1, act=_RELU)
    trunk = nn.Sequential(OrderedDict(features=net.features, relu=nn.ReLU()))
    return trunk, cast(nn.Linear, net.class_layers.out).in_features


class _EfficientNetTrunk(EfficientNetBN):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = self._swish(self._bn0(self._conv_stem(self._conv_stem_padding(inputs))))
        x = self._conv_head(self._conv_head_padding(self._blocks(x)))
        return self._swish(self._bn1(x))


def _efficientnet_b0(channels: int, config: ImageModel) -> tuple[nn.Module, int]:
    net = _EfficientNetTrunk("efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=channels)
    width = net._fc.in_features
    del net._fc, net._avg_pooling, net._dropout
    return net, width


_RESNETS = {"resnet10": [1, 1, 1, 1], "resnet18": [2, 2, 2, 2]}
_TRUNKS: dict[str, Callable[[int, ImageModel], tuple[nn.Module, int]]] = {
    "resnet10": lambda channels, config: _resnet(_RESNETS["resnet10"], channels, config.image_width),
    "resnet18": lambda channels, config: _resnet(_RESNETS["resnet18"], channels, config.image_width),
    "densenet121": _densenet121,
    "efficientnet-b0": _efficientnet_b0,
}


def image_trunk(config: ImageModel, channels: int) -> tuple[nn.Module, int]:
    """The network that `config.image` names: (R, channels, H, W) -> (R, width, h, w); and its width."""
    return _TRUNKS[config.image](channels, config)


def volume_trunk(config: VolumeModel) -> tuple[nn.Module, int]:
    """The network that `config.volume` names: (R, 1, D, H, W) -> (R, width, d, h, w); and its width."""
    return _resnet(_RESNETS[config.volume], 1, config.volume_width, dimensions=3)
