"""Random views of training images, each record by itself."""

from __future__ import annotations

import torch

from mmmed._monai import Compose, RandAdjustContrast, RandAffine, convert_to_tensor

_TRANSLATE = 0.06  # of the image side
_ROTATE = 0.1  # radians
_SCALE = 0.08


class Augmentation:
    """MONAI shifts, rotations, zooms and gamma; seeded, since it protects nobody's privacy."""

    def __init__(self, image_size: int, seed: int) -> None:
        self._transform = Compose(
            [
                RandAffine(
                    prob=0.8,
                    rotate_range=_ROTATE,
                    translate_range=(_TRANSLATE * image_size,) * 2,
                    scale_range=_SCALE,
                    padding_mode="border",
                ),
                RandAdjustContrast(prob=0.5, gamma=(0.8, 1.25)),
            ]
        )
        self._transform.set_random_state(seed=seed)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(R, C, H, W) float32 in [0, 1] -> the same shape."""
        if images.shape[0] == 0:
            return images
        # plain tensors: MONAI's MetaTensor would follow into the model and slow down its every operation
        views = [convert_to_tensor(self._transform(image), track_meta=False) for image in images]
        return torch.stack(views)
