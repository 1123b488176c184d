"""The parts of MONAI that mmmed uses, imported in one place.

MONAI's packages import each other in circles. When two threads begin with different parts at the same time,
as Flower's do when they load a ServerApp and a ClientApp in one process, each may see a half-made package.
With one entrance the thread that comes first loads MONAI, and the others wait for it.
"""

from __future__ import annotations

from mmmed import _transformers as _transformers  # isort: skip  (MONAI asks for it)
from monai.networks.nets import DenseNet121, EfficientNetBN, ResNet

__all__ = ["DenseNet121", "EfficientNetBN", "ResNet"]
