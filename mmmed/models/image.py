"""Networks of images and volumes as encoders from an image or a volume to a sequence of feature tokens.

What is trained from scratch has GroupNorm: BatchNorm mixes the records of a batch, so one patient's gradient would
depend on another patient and clipping would bound nothing. Pretrained weights may come with BatchNorm; it keeps the
statistics that it came with, and is then a scale and a shift of each channel.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from mmmed.config import ModelConfig
from mmmed.data.batch import Input
from mmmed.modalities.image import ImageModel
from mmmed.modalities.volume import VolumeModel
from mmmed.models.pretrained import LITE0, LITE0_WIDTH, Lite0
from mmmed.models.weights import has_batch_statistics, input_channels, put, read_weights

NORM_GROUPS = 8
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of red, green, blue


class ImageEncoder(nn.Module):
    """Images (R, channels, H, W) or volumes (R, channels, D, H, W) in [0, 1] -> (R, S, width) float.

    One token a position of the last feature map.

    Args:
        trunk: the network.
        width: channels of its last feature map.
        channels: that the trunk reads; a grey image is repeated.
        scaling: of the pixel values, see `ModelConfig.image_scaling`.
    """

    def __init__(
        self,
        trunk: nn.Module,
        width: int,
        channels: int = 1,
        scaling: Literal["unit", "imagenet"] = "unit",
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.width = width
        self.channels = channels
        self.scaling = scaling

    def forward(self, given: Input) -> torch.Tensor:
        image = given.values
        if image.shape[1] == 1:
            image = image.expand(-1, self.channels, *image.shape[2:])
        if self.scaling == "imagenet":
            mean, deviation = torch.tensor(_IMAGENET, device=image.device)[:, : image.shape[1], None, None]
            image = (image - mean) / deviation
        features: torch.Tensor = self.trunk(image)  # [r, c, h, w]
        return features.flatten(2).transpose(1, 2)  # [r, h * w, c]


def _without_overwriting(module: nn.Module) -> nn.Module:
    """Let no activation overwrite its input, which per-record hooks still need.

    MONAI's ResNet passes its `act` argument to the first layer only.
    """
    for child in module.modules():
        if isinstance(child, nn.ReLU):
            child.inplace = False
    return module


def group_norm_throughout(module: nn.Module) -> None:
    """Replace every BatchNorm in a module by a GroupNorm, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            groups = math.gcd(NORM_GROUPS, child.num_features)
            setattr(module, name, nn.GroupNorm(groups, child.num_features))
        else:
            group_norm_throughout(child)


def build_image_encoder(config: ModelConfig, channels: int, size: int = 64) -> ImageEncoder:
    """Build the encoder that `config.image` names, with its pretrained weights if it names a file.

    Raises:
        ModelError: the weight file is missing or is for another network, the encoder's package is missing, or images
            of `size` pixels a side are too small for it.
    """
    keys = config.of(ImageModel)
    if keys.image == LITE0:
        return ImageEncoder(Lite0(), LITE0_WIDTH, channels)
    state = read_weights(Path(keys.image_weights)) if keys.image_weights else {}
    channels = max(channels, input_channels(state, channels))
    from mmmed.models.trunks import image_trunk  # MONAI, which is slow to import, only where it is used

    trunk, width = image_trunk(keys, channels, size)
    if not has_batch_statistics(state):
        group_norm_throughout(trunk)
    if state:
        put(trunk, state, keys.image_weights, keys.image)
    return ImageEncoder(_without_overwriting(trunk), width, channels, keys.image_scaling)


def build_volume_encoder(config: ModelConfig, size: int = 48) -> ImageEncoder:
    """Build the 3D encoder that `config.volume` names, of one input channel, with its weights if it names a file.

    Raises:
        ModelError: the weight file is missing or is for another network, or
            volumes of `size` voxels a side are too small for it.
    """
    from mmmed.models.trunks import volume_trunk

    keys, key = config.of(VolumeModel), "model.volume_weights"
    state = read_weights(Path(keys.volume_weights), key) if keys.volume_weights else {}
    trunk, width = volume_trunk(keys, size)
    if not has_batch_statistics(state):
        group_norm_throughout(trunk)
    if state:
        put(trunk, state, keys.volume_weights, keys.volume, key)
    return ImageEncoder(_without_overwriting(trunk), width)
