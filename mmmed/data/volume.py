"""CT and MR volumes (NIfTI) on one grid: same orientation, same physical scale on every axis, values in [0, 1]."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from torch.nn import functional

from mmmed.errors import DataError

MAX_VOXELS = 1 << 29  # twice 512 x 512 x 1024

_SLAB_VOXELS = 1 << 22  # read at once: memory does not grow with the volume
_PERCENTILES = (0.5, 99.5)


def read_volume(path: Path, *, size: int, spacing: float, window: tuple[float, ...]) -> np.ndarray:
    """Read NIfTI into a cube: (1, size, size, size) float32 in [0, 1]; axes run to superior, anterior, right.

    Resized linearly with an antialiasing filter of the scale's width, as images are. (MONAI's ``Spacing``
    has none: it skips slices when it shrinks.) An oblique volume keeps its own axes, named by the nearest
    anatomical ones. Voxels that are no number count as the darkest around them; outside is darkest, too.

    Args:
        path: of the file.
        size: voxels a side of the cube.
        spacing: millimetres from voxel to voxel. The middle of a larger volume is kept, a smaller one is
            padded. 0 fits the whole of each volume into the cube, whatever its extent.
        window: (low, high), the values that become 0 and 1 (Hounsfield units of CT); () takes the 0.5th and
            99.5th percentile of each volume by itself (MR, whose values have no unit).

    Raises:
        DataError: the file is missing, unreadable, not of three dimensions, too large, without usable voxel sizes, or
            without a finite value. The message names it.
    """
    try:
        image = open_volume(path)
        values = _resampled(image, path, size, spacing, window)
        values = nibabel.apply_orientation(values, nibabel.io_orientation(image.affine))
    except DataError:
        raise
    except Exception as error:  # the reader raises whatever it stumbles over
        raise DataError(
            f"{path}: not a readable NIfTI volume ({type(error).__name__}); export it again or remove its row"
        ) from error
    low, high = window or np.percentile(values, _PERCENTILES)
    values = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    spare = [size - length for length in values.shape]
    return np.pad(values, [(n // 2, n - n // 2) for n in spare]).T[None].astype(np.float32)


def _resampled(image: Any, path: Path, size: int, spacing: float, window: tuple[float, ...]) -> np.ndarray:
    """The part of the volume that the cube holds, float32 with its axes as they are stored."""
    voxels = _voxel_sizes(image, path)
    shape, rest = image.shape[:3], (0,) * (image.ndim - 3)
    step = spacing or max(n * mm for n, mm in zip(shape, voxels, strict=True)) / size
    kept, target = [], []
    for length, mm in zip(shape, voxels, strict=True):
        count = min(length, max(1, round(size * step / mm)))
        start = (length - count) // 2
        kept.append(slice(start, start + count))
        target.append(min(size, max(1, round(count * mm / step))))
    slabs = []
    depth = max(1, _SLAB_VOXELS // (shape[0] * shape[1]))
    for start in range(kept[2].start, kept[2].stop, depth):
        slab = image.dataobj[
            (slice(None), slice(None), slice(start, min(start + depth, kept[2].stop)), *rest)
        ]
        slab = np.asarray(slab[kept[0], kept[1]], dtype=np.float32).transpose(2, 0, 1)
        slabs.append(_resized(_finite(slab, window), target[:2]))
    planes = np.concatenate(slabs)  # [slices, x, y]
    if not np.isfinite(planes).any():
        raise DataError(f"{path}: no voxel has a finite value; export it again or remove its row")
    planes = np.nan_to_num(planes, nan=float(np.nanmin(planes)))
    return _resized(planes.transpose(1, 2, 0), (target[1], target[2]))


def _finite(slab: np.ndarray, window: tuple[float, ...]) -> np.ndarray:
    """The slab clipped to the window, its least finite value for infinity and NaN; all NaN if none is finite."""
    finite = np.isfinite(slab)
    if not finite.any():
        return np.full_like(slab, np.nan)
    slab = np.where(finite, slab, slab[finite].min())
    return np.clip(slab, window[0], window[1]) if window else slab


def open_volume(path: Path) -> Any:
    """The NIfTI image, its values not read yet. Raises `DataError` if it is none that `read_volume` takes."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; correct the path in the table or restore the file")
    image = nibabel.load(path, keep_file_open=True)
    if not isinstance(image, nibabel.Nifti1Pair):
        raise DataError(f"{path}: not NIfTI ({type(image).__name__}); convert it to .nii or .nii.gz")
    shape, kind = [int(n) for n in image.shape], image.get_data_dtype().kind
    told = " x ".join(map(str, shape))
    if len(shape) < 3 or min(shape[:3]) < 2 or any(n != 1 for n in shape[3:]):
        raise DataError(
            f"{path}: {told} voxels; expected three dimensions of two or more. "
            "Single slices are images (data.image); of a series in time take one volume"
        )
    if math.prod(shape) > MAX_VOXELS:
        raise DataError(f"{path}: {told} voxels; at most {MAX_VOXELS:,} are read")
    if kind not in "iuf":
        raise DataError(f"{path}: voxels of type {image.get_data_dtype()}; expected one real number each")
    return image


def _voxel_sizes(image: Any, path: Path) -> tuple[float, ...]:
    sizes = tuple(float(mm) for mm in nibabel.affines.voxel_sizes(image.affine))
    if not all(math.isfinite(mm) and mm > 0 for mm in sizes):
        raise DataError(f"{path}: voxels of {sizes} mm; expected positive sizes. Correct the affine")
    return sizes


def _resized(planes: np.ndarray, target: list[int] | tuple[int, ...]) -> np.ndarray:
    """Planes resized linearly with antialiasing: (N, A, B) -> (N, *target)."""
    values = torch.from_numpy(np.ascontiguousarray(planes))[None]
    resized = functional.interpolate(
        values, size=tuple(target), mode="bilinear", antialias=True, align_corners=False
    )
    return resized[0].numpy()
