"""Slices of one series as a volume in patient coordinates (PS3.3 C.7.6.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from mmmed.dicom.numbers import number

MIN_SLICES = 3
_SAME_DIRECTION = 1e-3  # largest difference of direction cosines
_SAME_SPACING = 0.1  # largest deviation from the median distance of neighbours, as a share of it

_TILTED = 0.01  # sine of the angle between the stack and its normal from which slices are moved


@dataclass(frozen=True)
class Slice:
    """Position of one slice: its file (an index into the caller's list), its frame and its plane."""

    file: int
    frame: int
    position: tuple[float, float, float]  # mm, centre of the first pixel
    orientation: tuple[float, ...]  # direction cosines of a row and of a column
    spacing: tuple[float, float]  # mm between rows, between columns
    shape: tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """Slices in order along the normal, and the affine from (row, column, slice) to RAS+ millimetres.

    ``shifts`` (N, 2) float64 says by how many rows and columns each slice has to be moved so that the affine holds, as
    after a tilted gantry; all are at least 0. None: the affine holds as it is.
    """

    slices: tuple[Slice, ...]
    affine: np.ndarray  # (4, 4) float64
    shifts: np.ndarray | None = None


def slices_of(dataset: Dataset, file: int) -> list[Slice]:
    """The planes of a single-frame or enhanced multi-frame object; empty if the header does not state them."""
    try:
        shape = (int(dataset.Rows), int(dataset.Columns))
        frames = dataset.get("PerFrameFunctionalGroupsSequence")
        if not frames:
            if int(dataset.get("NumberOfFrames") or 1) > 1:
                return []
            return [_slice(file, 0, dataset, dataset, dataset, shape)]
        shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]

        def group(index: int, name: str) -> Dataset:
            return (frames[index].get(name) or shared[0][name].value)[0]

        return [
            _slice(
                file, i, group(i, "PlanePositionSequence"), group(i, "PlaneOrientationSequence"),
                group(i, "PixelMeasuresSequence"), shape,
            )
            for i in range(len(frames))
        ]  # fmt: skip
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        return []


def _slice(
    file: int, frame: int, place: Dataset, plane: Dataset, measures: Dataset, shape: tuple[int, int]
) -> Slice:
    x, y, z = (number(value) for value in place.ImagePositionPatient)
    row, column = (number(value) for value in measures.PixelSpacing)
    orientation = tuple(number(value) for value in plane.ImageOrientationPatient)
    if len(orientation) != 6:
        raise ValueError
    return Slice(file, frame, (x, y, z), orientation, (row, column), shape)


def geometry(slices: Sequence[Slice]) -> Geometry | str:
    """Order slices and check that they form a regular volume; if they do not, the reason as text."""
    if len(slices) < MIN_SLICES:
        return f"series of {len(slices)} slices; a volume needs at least {MIN_SLICES}"
    first = slices[0]
    if any(
        one.shape != first.shape or not np.allclose(one.spacing, first.spacing, rtol=1e-3) for one in slices
    ):
        return "series whose slices differ in size or pixel spacing"
    directions = np.array([one.orientation for one in slices])
    if np.abs(directions - directions[0]).max() > _SAME_DIRECTION:
        return "series whose slices differ in orientation (a localiser?)"
    along_row, along_column = directions[0, :3], directions[0, 3:]
    normal = np.cross(along_row, along_column)
    if abs(np.linalg.norm(normal) - 1) > 0.01 or min(first.spacing) <= 0:
        return "series whose orientation or pixel spacing is no valid geometry"
    depths = np.array([one.position for one in slices]) @ normal
    order = np.argsort(depths, kind="stable")
    gaps = np.diff(depths[order])
    step = float(np.median(gaps))
    if step <= 0 or gaps.min() < _SAME_SPACING * step:
        return "series with several slices at one position (phases or echoes): export them as separate series"
    if gaps.max() > (1 + _SAME_SPACING) * step or gaps.min() < (1 - _SAME_SPACING) * step:
        wide = int((gaps > (1 + _SAME_SPACING) * gaps.min()).sum())
        return f"series with missing slices: {wide} gaps"
    ordered = tuple(slices[i] for i in order)
    origin, last = np.array(ordered[0].position), np.array(ordered[-1].position)
    affine = np.eye(4)
    affine[:3, 0] = along_column * first.spacing[0]  # one row further is a step along the column direction
    affine[:3, 1] = along_row * first.spacing[1]
    affine[:3, 2] = (last - origin) / (len(ordered) - 1)
    affine[:3, 3] = origin
    shifts = None
    if np.linalg.norm(np.cross(last - origin, normal)) > _TILTED * np.linalg.norm(last - origin):
        places = np.array([one.position for one in ordered]) - origin
        shifts = np.stack(
            [places @ along_column / first.spacing[0], places @ along_row / first.spacing[1]], axis=1
        )
        low = shifts.min(axis=0)
        shifts = shifts - low
        affine[:3, 2] = normal * step
        affine[:3, 3] = origin + affine[:3, 0] * low[0] + affine[:3, 1] * low[1]
    return Geometry(
        ordered, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, shifts
    )  # DICOM is LPS+, NIfTI and MONAI RAS+
