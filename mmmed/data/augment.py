"""Random views of training records, each record by itself."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from mmmed.config import DataConfig
from mmmed.data.batch import Batch, Input

VERSION = 2  # raise it whenever a seed gives other views

_MOVED, _CONTRASTED = 0.8, 0.5  # share of the records
_TRANSLATE = 0.12  # of half the side
_ROTATE = 0.1  # radians
_SCALE = 0.08
_GAMMA = (0.8, 1.25)


class Augmentation:
    """Shifts, rotations, zooms and gamma; seeded, since it protects nobody's privacy.

    A volume is moved in the planes across one of its axes, drawn anew for each view: that costs a tenth of moving it in
    space, where the weights of interpolation are of each voxel instead of each place in a plane.
    """

    def __init__(self, data: DataConfig, seed: int) -> None:
        self._names = [name for name in ("image", "volume") if getattr(data, name)]
        self._rng = np.random.default_rng(seed)

    def __call__(self, batch: Batch, fixed: Collection[str] = ()) -> Batch:
        """The batch with other views of its records, but for the modalities `fixed`; what is missing stays zero."""
        views = {name: _view(batch.inputs[name], self._rng) for name in self._names if name not in fixed}
        return replace(batch, inputs={**batch.inputs, **views})

    def changes(self, name: str) -> bool:
        """Whether a modality has other views."""
        return name in self._names

    def view(self, name: str, given: Input, seed: int) -> Input:
        """The view of some records' modality `name` that `seed` alone decides."""
        return _view(given, np.random.default_rng(seed))


def _view(given: Input, rng: np.random.Generator) -> Input:
    """Images (R, C, side, side) or volumes (R, C, side, side, side), each moved and its contrast changed, or not."""
    values = given.values.clone()
    there = given.present[:, 0].cpu().numpy()
    moved = there & (rng.random(len(there)) < _MOVED)
    if values.ndim == 4:
        rows = torch.from_numpy(np.flatnonzero(moved))
        values[rows] = _moved(values[rows], rng)
    else:
        about = rng.integers(0, 3, len(there))
        for axis in range(3):
            rows = torch.from_numpy(np.flatnonzero(moved & (about == axis)))
            across = values[rows].movedim(2 + axis, 2)
            planes = _moved(across.flatten(1, 2), rng)
            values[rows] = planes.unflatten(1, across.shape[1:3]).movedim(2, 2 + axis)
    for row in np.flatnonzero(there & (rng.random(len(there)) < _CONTRASTED)):
        low, high = torch.aminmax(values[row])
        extent = (high - low).clamp_min(1e-7)
        values[row].sub_(low).div_(extent).pow_(rng.uniform(*_GAMMA)).mul_(extent).add_(low)
    return replace(given, values=values * given.present.view(len(values), *[1] * (values.ndim - 1)))


def _moved(planes: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Planes (R, P, side, side), all P of a record shifted, rotated and zoomed alike."""
    count = len(planes)
    if not count:
        return planes
    angle = rng.uniform(-_ROTATE, _ROTATE, count)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)
    zoom = 1 + rng.uniform(-_SCALE, _SCALE, (count, 1, 2))
    shift = rng.uniform(-_TRANSLATE, _TRANSLATE, (count, 2, 1))
    maps = torch.from_numpy(np.concatenate([turn * zoom, shift], axis=2)).to(planes)
    grid = functional.affine_grid(maps, list(planes.shape), align_corners=False)
    return functional.grid_sample(planes, grid, padding_mode="border", align_corners=False)
