"""Random views of training records, each record by itself.

A view is a function of the record and of that record's own uniforms (`mmmed.data.chance`): what else is in the batch
changes nothing.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from mmmed.data.batch import Input

VERSION = 3  # raise it whenever the same uniforms give another view

_MOVED, _CONTRASTED = 0.8, 0.5  # share of the records
_TRANSLATE = 0.12  # of half the side
_ROTATE = 0.1  # radians
_SCALE = 0.08
_GAMMA = (0.8, 1.25)


def view(given: Input, uniforms: np.ndarray) -> Input:
    """Other views of R records: shifted, rotated, zoomed, of another contrast, or not; what is missing stays zero.

    A volume is moved in the planes across one of its axes: that costs a tenth of moving it in space, where the weights
    of interpolation are of each voxel instead of each place in a plane.

    Args:
        given: images (R, C, side, side) or volumes (R, C, side, side, side).
        uniforms: float64 [R, 9 or more] in [0, 1), each record's own.
    """
    values = given.values.clone()
    there = given.present[:, 0].cpu().numpy()
    if_moved, if_contrasted, about, gamma = uniforms[:, :4].T
    geometry = uniforms[:, 4:9]
    moved = there & (if_moved < _MOVED)
    if values.ndim == 4:
        rows = np.flatnonzero(moved)
        values[torch.from_numpy(rows)] = _moved(values[torch.from_numpy(rows)], geometry[rows])
    else:
        for axis in range(3):
            rows = np.flatnonzero(moved & (np.floor(3 * about) == axis))
            across = values[torch.from_numpy(rows)].movedim(2 + axis, 2)
            planes = _moved(across.flatten(1, 2), geometry[rows])
            values[torch.from_numpy(rows)] = planes.unflatten(1, across.shape[1:3]).movedim(2, 2 + axis)
    for row in np.flatnonzero(there & (if_contrasted < _CONTRASTED)):
        low, high = torch.aminmax(values[row])
        extent = (high - low).clamp_min(1e-7)
        power = float(_between(gamma[row], *_GAMMA))
        values[row].sub_(low).div_(extent).pow_(power).mul_(extent).add_(low)
    return replace(given, values=values * given.present.view(len(values), *[1] * (values.ndim - 1)))


def _moved(planes: torch.Tensor, uniforms: np.ndarray) -> torch.Tensor:
    """Planes (R, P, side, side), all P of a record shifted, rotated and zoomed alike, by its uniforms [R, 5]."""
    if not len(planes):
        return planes
    angle = _between(uniforms[:, 0], -_ROTATE, _ROTATE)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)
    zoom = 1 + _between(uniforms[:, None, 1:3], -_SCALE, _SCALE)
    shift = _between(uniforms[:, 3:5, None], -_TRANSLATE, _TRANSLATE)
    maps = torch.from_numpy(np.concatenate([turn * zoom, shift], axis=2)).to(planes)
    grid = functional.affine_grid(maps, list(planes.shape), align_corners=False)
    return functional.grid_sample(planes, grid, padding_mode="border", align_corners=False)


def _between(uniforms: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + (high - low) * uniforms
