"""The parts of MONAI that mmmed uses, imported in one place.

MONAI's packages import each other in circles. When two threads begin with different parts at the same time,
as Flower's do when they load a ServerApp and a ClientApp in one process, each may see a half-made package.
With one entrance the thread that comes first loads MONAI, and the others wait for it.
"""

from __future__ import annotations

import torch

from mmmed import _transformers as _transformers  # isort: skip  (MONAI asks for it)
from monai.networks.nets import DenseNet121, EfficientNetBN, ResNet, swin_unetr

__all__ = ["DenseNet121", "EfficientNetBN", "ResNet", "SwinTransformer"]

SwinTransformer = swin_unetr.SwinTransformer


def _rearrange(x: torch.Tensor, pattern: str) -> torch.Tensor:
    """For the two patterns of MONAI's Swin transformer: channels to the end, or back to the front."""
    return x.movedim(1, -1) if pattern.endswith("c") else x.movedim(-1, 1)


swin_unetr.rearrange = _rearrange  # einops', which MONAI does not bring and nothing else here needs
