"""Random views of training records, each record by itself."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from mmmed.config import DataConfig
from mmmed.data.batch import Batch, Input

if TYPE_CHECKING:
    from mmmed._monai import Compose

_TRANSLATE = 0.06  # of the image side
_ROTATE = 0.1  # radians
_SCALE = 0.08


class Augmentation:
    """MONAI shifts, rotations, zooms and gamma; seeded, since it protects nobody's privacy."""

    def __init__(self, data: DataConfig, seed: int) -> None:
        self._transforms = {}
        if data.image:
            self._transforms["image"] = _view(data.image_size, dimensions=2)
        if data.volume:
            self._transforms["volume"] = _view(data.volume_size, dimensions=3)
        for transform in self._transforms.values():
            transform.set_random_state(seed=seed)

    def __call__(self, batch: Batch, fixed: Collection[str] = ()) -> Batch:
        """The batch with other views of its records, but for the modalities `fixed`; what is missing stays zero."""
        if len(batch) == 0:
            return batch
        views = {
            name: _transformed(batch.inputs[name], transform)
            for name, transform in self._transforms.items()
            if name not in fixed
        }
        return replace(batch, inputs={**batch.inputs, **views})

    def changes(self, name: str) -> bool:
        """Whether a modality has other views."""
        return name in self._transforms

    def view(self, name: str, given: Input, seed: int) -> Input:
        """The view of some records' modality `name` that `seed` alone decides."""
        transform = self._transforms[name]
        transform.set_random_state(seed=seed)
        return _transformed(given, transform)


def _view(size: int, dimensions: int) -> Compose:
    from mmmed._monai import Compose, RandAdjustContrast, RandAffine  # slow to import: only where it is used

    return Compose(
        [
            RandAffine(
                prob=0.8,
                rotate_range=(_ROTATE,) * (2 * dimensions - 3),
                translate_range=(_TRANSLATE * size,) * dimensions,
                scale_range=(_SCALE,) * dimensions,
                padding_mode="border",
            ),
            RandAdjustContrast(prob=0.5, gamma=(0.8, 1.25)),
        ]
    )


def _transformed(given: Input, transform: Compose) -> Input:
    from mmmed._monai import convert_to_tensor

    # plain tensors: MONAI's MetaTensor would follow into the model and slow down its every operation
    views = torch.stack([convert_to_tensor(transform(one), track_meta=False) for one in given.values])
    there = given.present.view(len(views), *[1] * (views.ndim - 1))
    return replace(given, values=views * there)
