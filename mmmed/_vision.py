"""Vision networks of transformers and torchvision, imported in one place and only by runs that use them.

As in `mmmed._transformers`, which loads first, one entrance serves threads that begin at the same time.
"""

from __future__ import annotations

from mmmed import _transformers as _transformers  # isort: skip
from torchvision.models.swin_transformer import SwinTransformer
from transformers import ConvNextConfig, ConvNextModel, ViTConfig, ViTModel

__all__ = ["ConvNextConfig", "ConvNextModel", "SwinTransformer", "ViTConfig", "ViTModel"]
