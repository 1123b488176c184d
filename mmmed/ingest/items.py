"""One image or volume at a time: decode, clear of text, write."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path

import nibabel
import numpy as np
import torch
from PIL import Image
from pydicom import Dataset
from scipy import ndimage
from torch.nn import functional

from mmmed.data.image import read_image
from mmmed.data.volume import MAX_VOXELS
from mmmed.deidentify.header import was_masked
from mmmed.deidentify.pixels import Cleared, Seen, clear_text
from mmmed.deidentify.volumes import has_text
from mmmed.dicom.file import open_dicom
from mmmed.dicom.numbers import number
from mmmed.dicom.pixels import frame, modality_values
from mmmed.dicom.series import Geometry
from mmmed.errors import DataError
from mmmed.files import replacing, write_atomic
from mmmed.ingest.contact_sheets import masked_picture, write_pair
from mmmed.ingest.sources import Found

_MOST_MM = 1000.0  # between pixels; what is larger is damage
_SAMPLED = 50  # images of which one is looked at though no text was seen in it
_THICKEST = 0.9  # of the largest: voxels of such a size count as the largest


@dataclass(frozen=True)
class Written:
    """The result of writing one item; nothing in it names a patient.

    Attributes:
        file: path below the data set; "" if text in the pixels could not be cleared.
        shape: height and width, and slices of a volume.
        spacing: millimetres along the shape, 0 if unknown.
        fingerprint: 256 bits in hexadecimal that stay alike for alike images; "" for volumes.
        masked: boxes of text that were blackened.
        held: whether a human must approve it, an image or a clip: text or a side marker was seen in it, text was masked
            in it before, or it is one of the sample.
        sha256: of the file in hexadecimal; "" before it is noted as done.
    """

    file: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    fingerprint: str
    masked: int
    held: bool = False
    sha256: str = ""

    def place(self, item: str, out: Path) -> Path:
        """Path of the item's file: in the review folder if it waits for approval, else in the data set."""
        return masked_picture(out, item) if self.held else out / self.file

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, object]) -> Written:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})  # type: ignore[arg-type]


def write_image(found: Found, item: str, out: Path, *, dicom: bool) -> Written:
    """Decode the first frame, clear it of text and write it as an 8-bit PNG of what a display shows.

    An image in which text or a side marker was seen, here or in the copy that it is, goes into the review folder with a
    picture of it before and after; and so does a sample of those in which nothing was.

    Args:
        found: the file.
        item: name of the image in the data set.
        out: folder of the data set.
        dicom: the file is DICOM; else a picture, whose spacing is unknown.

    Raises:
        DataError: the file cannot be read.
    """
    masked_before = False
    spacing: tuple[float, ...] = (0.0, 0.0)
    if dicom:
        dataset = open_dicom(found.path)
        pixels = frame(dataset, found.origin)
        masked_before = was_masked(dataset)
        spacing = spacing_of(dataset, found)
    else:
        pixels = read_image(found.path, channels=3)
        if (pixels == pixels[:1]).all():
            pixels = pixels[:1]
    cleared = clear_text(np.ascontiguousarray(pixels))
    shape = (pixels.shape[1], pixels.shape[2])
    if not cleared.clear:
        return Written("", shape, spacing, fingerprint(pixels), len(cleared.boxes))
    file, png = f"images/{item}.png", _png(_eight_bits(cleared))
    seen = Seen(cleared.boxes, cleared.markers)
    if not (any(seen) or masked_before or is_sample(item)):
        _write(png, out / file)
        return Written(file, shape, spacing, fingerprint(pixels), 0)
    write_pair(out, item, pixels, seen)
    _write(png, masked_picture(out, item))
    return Written(file, shape, spacing, fingerprint(pixels), len(cleared.boxes), held=True)


def is_sample(item: str) -> bool:
    """Whether an image is one of those that a human looks at though nothing was seen in them: by its pseudonym."""
    return int(item[:8], 16) % _SAMPLED == 0


def spacing_of(dataset: Dataset, found: Found) -> tuple[float, float]:
    """Millimetres between rows and between columns; 0 if they are not stated or not possible."""
    given = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing") or ()
    try:
        row, column = map(number, given) if len(given) == 2 else (0.0, 0.0)
    except (TypeError, ValueError) as error:
        raise DataError(f"{found.origin}: PixelSpacing is no number; correct the header") from error
    return (row, column) if 0 < row < _MOST_MM and 0 < column < _MOST_MM else (0.0, 0.0)


def write_volume(files: list[Found], geometry: Geometry, item: str, out: Path) -> Written:
    """Stack slices after the modality LUT (Hounsfield units for CT) and write NIfTI with the affine.

    A volume with text in a slice is not taken, nor one with slices in which it was masked before.

    Args:
        files: DICOM objects, by the numbers that the slices have for them.
        geometry: slices in order, and the affine to RAS+ millimetres.
        item: name of the volume in the data set.
        out: folder of the data set.

    Raises:
        DataError: the volume is too large, a slice has another size or masked text, or a file cannot be read.
    """
    height, width = geometry.slices[0].shape
    shifts = geometry.shifts if geometry.shifts is not None else np.zeros((1, 2))
    margin = np.ceil(shifts.max(axis=0)).astype(int)
    shape = (height + int(margin[0]), width + int(margin[1]), len(geometry.slices))
    if np.prod(shape) > MAX_VOXELS:
        raise DataError(f"{files[0].origin}: volume of {shape} voxels; at most {MAX_VOXELS:,} are taken")
    volume = np.empty((height, width, shape[2]), dtype=np.float32)
    opened, dataset = -1, None
    for place, one in enumerate(geometry.slices):
        if one.file != opened:
            opened, dataset = one.file, open_dicom(files[one.file].path)
        assert dataset is not None
        if was_masked(dataset):
            raise DataError(
                f"{files[one.file].origin}: text was masked in this slice; volumes with text are not taken"
            )
        values = modality_values(dataset, files[one.file].origin, one.frame)
        if values.shape != (height, width):
            raise DataError(
                f"{files[one.file].origin}: slice of {values.shape} pixels; expected {(height, width)}"
            )
        volume[:, :, place] = values
    if geometry.shifts is not None:
        volume = _upright(volume, geometry.shifts, shape)
    spacing = tuple(float(v) for v in np.linalg.norm(geometry.affine[:3, :3], axis=0))
    if has_text(volume, axes=(2,)):
        return Written("", shape, spacing, "", 0)
    return Written(_write_nifti(volume, geometry.affine, item, out), shape, spacing, "", 0)


def _upright(volume: np.ndarray, shifts: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Slices of a tilted gantry (H, W, N) moved by rows and columns (N, 2), linearly interpolated.

    Beside them is the least value.
    """
    height, width, _ = volume.shape
    upright = np.full(shape, volume.min(), dtype=np.float32)
    upright[:height, :width] = volume
    for place, shift in enumerate(shifts):
        upright[:, :, place] = ndimage.shift(upright[:, :, place], shift, order=1, cval=float(volume.min()))
    return upright


def copy_nifti(found: Found, item: str, out: Path) -> Written:
    """Copy values and affine of a NIfTI volume into a new file, without its header, extensions and free text.

    A volume with text is not taken. It is looked for in planes across the last axis, as converters store slices, and
    across those with the thickest voxels, which are all if these are cubes. Raises `DataError` if it is unreadable,
    too large or has not three dimensions.
    """
    try:
        image = nibabel.nifti1.load(found.path)
        shape = tuple(int(size) for size in image.shape)
        if len(shape) != 3 or np.prod(shape, dtype=object) > MAX_VOXELS or min(shape) < 2:
            raise DataError(
                f"{found.origin}: NIfTI of shape {shape}; expected three dimensions of two or more, "
                f"at most {MAX_VOXELS:,} voxels"
            )
        affine = np.asarray(image.affine, dtype=np.float64)
        spacing = tuple(float(mm) for mm in np.linalg.norm(affine[:3, :3], axis=0))
        if not all(0 < mm < _MOST_MM for mm in spacing) or not np.isfinite(affine).all():
            raise DataError(
                f"{found.origin}: voxels of {spacing} mm; expected positive sizes. Correct the affine"
            )
        volume = np.asarray(image.dataobj, dtype=np.float32)
        if not np.isfinite(volume).any():
            raise DataError(f"{found.origin}: no voxel has a finite value")
    except DataError:
        raise
    except Exception as error:  # the reader raises whatever it stumbles over
        raise DataError(f"{found.origin}: not a readable NIfTI file ({type(error).__name__})") from error
    volume[~np.isfinite(volume)] = 0
    thickest = [axis for axis, mm in enumerate(spacing) if mm > _THICKEST * max(spacing)]
    if has_text(volume, sorted({2, *thickest})):
        return Written("", shape, spacing, "", 0)
    return Written(_write_nifti(volume, affine, item, out), shape, spacing, "", 0)


def _write_nifti(volume: np.ndarray, affine: np.ndarray, item: str, out: Path) -> str:
    """Values as int16 where that is exact, else float32; returns the path below ``out``."""
    file = f"volumes/{item}.nii.gz"
    target = out / file
    target.parent.mkdir(mode=0o700, exist_ok=True)
    exact = all(np.abs(plane).max() < 2**15 and (plane == plane.astype(np.int16)).all() for plane in volume)
    with replacing(target) as partial:
        nibabel.save(nibabel.Nifti1Image(volume.astype(np.int16) if exact else volume, affine), partial)
    return file


def fingerprint(pixels: np.ndarray) -> str:
    """Difference hash of 16 x 16 cells: whether each cell is brighter than its right neighbour."""
    gray = torch.from_numpy(np.ascontiguousarray(pixels.mean(0)))[None, None]
    cells = functional.interpolate(gray, size=(16, 17), mode="bilinear", antialias=True)[0, 0].numpy()
    return np.packbits(cells[:, :-1] > cells[:, 1:]).tobytes().hex()


def _eight_bits(cleared: Cleared) -> np.ndarray:
    values = (cleared.pixels * 255).round().astype(np.uint8)
    return values[0] if len(values) == 1 else np.moveaxis(values, 0, -1)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _write(content: bytes, target: Path) -> None:
    target.parent.mkdir(exist_ok=True, mode=0o700)
    write_atomic(target, content, durable=False)
