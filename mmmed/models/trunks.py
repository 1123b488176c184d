"""Networks of images and volumes without their classifiers, as they come: CNNs with BatchNorm, transformers without.

Each is given with the channels it puts out. Parameters are named as in the weights of torchvision; those of "vit-tiny"
and "convnext-tiny" as in the folders of classifiers of transformers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import nn

from mmmed._monai import DenseNet121, EfficientNetBN, ResNet, SwinTransformer
from mmmed.errors import ModelError
from mmmed.modalities.image import ImageModel
from mmmed.modalities.volume import VolumeModel

if TYPE_CHECKING:
    from mmmed._vision import ConvNextModel, ViTModel

DEPTHS = {
    "resnet10": [1, 1, 1, 1], "resnet18": [2, 2, 2, 2], "resnet50": [3, 4, 6, 3], "convnext-tiny": [3, 3, 9, 3],
    "vit-tiny": [12], "swin-tiny": [2, 2, 6, 2],
}  # fmt: skip
"""Blocks of each stage."""

_RELU = ("relu", {"inplace": False})


def _resnet(
    layers: list[int],
    channels: int,
    first: int,
    dimensions: int = 2,
    block: Literal["basic", "bottleneck"] = "basic",
) -> tuple[nn.Module, int]:
    stages = [first * factor for factor in (1, 2, 4, 8)]
    net = ResNet(
        block,
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
    trunk = nn.Sequential(OrderedDict((name, getattr(net, name)) for name in kept))
    return trunk, stages[-1] * (4 if block == "bottleneck" else 1)


def _densenet121(channels: int, config: ImageModel, size: int) -> tuple[nn.Module, int]:
    net = DenseNet121(spatial_dims=2, in_channels=channels, out_channels=1, act=_RELU)
    trunk = nn.Sequential(OrderedDict(features=net.features, relu=nn.ReLU()))
    return trunk, cast(nn.Linear, net.class_layers.out).in_features


class _EfficientNetTrunk(EfficientNetBN):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = self._swish(self._bn0(self._conv_stem(self._conv_stem_padding(inputs))))
        x = self._conv_head(self._conv_head_padding(self._blocks(x)))
        return self._swish(self._bn1(x))


def _efficientnet_b0(channels: int, config: ImageModel, size: int) -> tuple[nn.Module, int]:
    net = _EfficientNetTrunk("efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=channels)
    width = net._fc.in_features
    del net._fc, net._avg_pooling, net._dropout
    return net, width


def _vgg16(channels: int, config: ImageModel, size: int) -> tuple[nn.Module, int]:
    """Simonyan & Zisserman 2015 (arXiv 1409.1556), configuration D, to its last convolution."""
    layers: list[nn.Module] = []
    for stage, convolutions in enumerate((2, 2, 3, 3, 3)):
        width = config.image_width * min(2**stage, 8)
        layers += [nn.MaxPool2d(2)] if stage else []
        for _ in range(convolutions):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
    return nn.Sequential(OrderedDict(features=nn.Sequential(*layers))), channels


class _ViT(nn.Module):
    def __init__(self, net: ViTModel) -> None:
        super().__init__()
        self.vit = net

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.vit(pixel_values=image).last_hidden_state  # [r, 1 + s, width]
        return tokens.transpose(1, 2)


def _vit_tiny(channels: int, config: ImageModel, size: int) -> tuple[nn.Module, int]:
    """Dosovitskiy et al. 2021 (arXiv 2010.11929), patches of 16 pixels, in the size of DeiT-Ti (arXiv 2012.12877)."""
    from mmmed._vision import ViTConfig, ViTModel

    width = 3 * config.image_width
    keys = ViTConfig(
        hidden_size=width, num_hidden_layers=DEPTHS["vit-tiny"][0], num_attention_heads=3, image_size=size,
        intermediate_size=4 * width, patch_size=16, num_channels=channels,
    )  # fmt: skip
    return _ViT(ViTModel(keys, add_pooling_layer=False)), width


def _swin_tiny(channels: int, config: ImageModel, size: int) -> tuple[nn.Module, int]:
    """Liu et al. 2021 (arXiv 2103.14030), Swin-T."""
    from mmmed._vision import SwinTransformer

    first = 3 * (config.image_width // 2)
    net = SwinTransformer(
        patch_size=[4, 4], embed_dim=first, depths=DEPTHS["swin-tiny"], num_heads=[3, 6, 12, 24], window_size=[7, 7],
        stochastic_depth_prob=0.0, num_classes=1,
    )  # fmt: skip
    if channels != 3:
        net.features[0][0] = nn.Conv2d(channels, first, 4, stride=4)
    kept = ("features", "norm", "permute")
    return nn.Sequential(OrderedDict((name, getattr(net, name)) for name in kept)), 8 * first


class _ConvNext(nn.Module):
    def __init__(self, net: ConvNextModel) -> None:
        super().__init__()
        self.convnext = net

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        net = self.convnext
        features: torch.Tensor = net.encoder(net.embeddings(image)).last_hidden_state.flatten(2)
        tokens: torch.Tensor = net.layernorm(features.transpose(1, 2))
        return tokens.transpose(1, 2)


def _convnext_tiny(channels: int, config: ImageModel, size: int) -> tuple[nn.Module, int]:
    """Liu et al. 2022 (arXiv 2201.03545), ConvNeXt-T.

    A branch begins at 0.1 of its size, not at 1e-6: from there the few steps of a private run would hardly move it.
    """
    from mmmed._vision import ConvNextConfig, ConvNextModel

    if size < 32:
        raise ModelError(
            f'model.image = "convnext-tiny" needs images of 32 pixels a side or more. Found data.image_size = {size}'
        )
    first = 3 * (config.image_width // 2)
    keys = ConvNextConfig(
        num_channels=channels, hidden_sizes=[first, 2 * first, 4 * first, 8 * first], depths=DEPTHS["convnext-tiny"],
        layer_scale_init_value=0.1,
    )  # fmt: skip
    return _ConvNext(ConvNextModel(keys)), 8 * first


def _image_resnet(
    name: str, block: Literal["basic", "bottleneck"] = "basic"
) -> Callable[[int, ImageModel, int], tuple[nn.Module, int]]:
    return lambda channels, config, _: _resnet(DEPTHS[name], channels, config.image_width, block=block)


_TRUNKS: dict[str, Callable[[int, ImageModel, int], tuple[nn.Module, int]]] = {
    "resnet10": _image_resnet("resnet10"),
    "resnet18": _image_resnet("resnet18"),
    "resnet50": _image_resnet("resnet50", "bottleneck"),
    "densenet121": _densenet121,
    "efficientnet-b0": _efficientnet_b0,
    "vgg16": _vgg16,
    "convnext-tiny": _convnext_tiny,
    "vit-tiny": _vit_tiny,
    "swin-tiny": _swin_tiny,
}


def image_trunk(config: ImageModel, channels: int, size: int) -> tuple[nn.Module, int]:
    """The network that `config.image` names: (R, channels, size, size) -> (R, width, ...); and its width.

    Raises:
        ModelError: the images are too small for it.
    """
    return _TRUNKS[config.image](channels, config, size)


def _volume_resnet(name: str) -> Callable[[VolumeModel, int], tuple[nn.Module, int]]:
    return lambda config, _: _resnet(DEPTHS[name], 1, config.volume_width, dimensions=3)


def _densenet121_3d(config: VolumeModel, size: int) -> tuple[nn.Module, int]:
    if size < 32:
        raise ModelError(
            f'model.volume = "densenet121" needs volumes of 32 voxels a side or more. Found data.volume_size = {size}'
        )
    first = config.volume_width
    net = DenseNet121(
        spatial_dims=3, in_channels=1, out_channels=1, init_features=first, growth_rate=first // 2, act=_RELU
    )
    trunk = nn.Sequential(OrderedDict(features=net.features, relu=nn.ReLU()))
    return trunk, cast(nn.Linear, net.class_layers.out).in_features


class _LastStage(nn.Module):
    def __init__(self, net: SwinTransformer) -> None:
        super().__init__()
        self.swinViT = net  # as MONAI's SwinUNETR calls it

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.swinViT(volume)[-1]
        return features


def _swin_unetr(config: VolumeModel, size: int) -> tuple[nn.Module, int]:
    """The encoder of SwinUNETR (Hatamizadeh et al. 2022, arXiv 2201.01266)."""
    first = 3 * (config.volume_width // 4)
    net = SwinTransformer(
        in_chans=1, embed_dim=first, window_size=(7, 7, 7), patch_size=(2, 2, 2), depths=(2, 2, 2, 2),
        num_heads=(3, 6, 12, 24), spatial_dims=3,
    )  # fmt: skip
    return _LastStage(net), 16 * first


_VOLUME_TRUNKS: dict[str, Callable[[VolumeModel, int], tuple[nn.Module, int]]] = {
    "resnet10": _volume_resnet("resnet10"),
    "resnet18": _volume_resnet("resnet18"),
    "densenet121": _densenet121_3d,
    "swin-unetr": _swin_unetr,
}


def volume_trunk(config: VolumeModel, size: int) -> tuple[nn.Module, int]:
    """The network that `config.volume` names: (R, 1, size, size, size) -> (R, width, d, h, w); and its width.

    Raises:
        ModelError: the volumes are too small for it.
    """
    return _VOLUME_TRUNKS[config.volume](config, size)
