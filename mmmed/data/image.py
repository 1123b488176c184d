"""Reading one image file of any supported kind into the range [0, 1], and into the size that a run asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional

from mmmed.dicom.file import may_be_dicom, open_dicom
from mmmed.dicom.pixels import MAX_SAMPLES, frame
from mmmed.errors import DataError

_PILLOW_FORMATS = ("PNG", "JPEG", "TIFF")
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def read_image(path: Path, *, channels: Literal[1, 3]) -> np.ndarray:
    """Read DICOM, PNG, JPEG or TIFF: float32 (channels, H, W) in [0, 1], larger values brighter.

    DICOM goes through modality LUT, VOI LUT or window, inversion and colour conversion (`mmmed.dicom`);
    of several frames the first is read. Other images: 8 bits are divided by 255, deeper and floating-point
    ones stretched from their smallest to their largest value; transparency is dropped. Colour becomes
    gray by its luminance, gray becomes colour by repetition.

    Raises `DataError` naming the file if it is missing, unreadable, too large or of another kind.
    """
    try:
        if not path.is_file():
            raise DataError(f"{path}: no such file; correct the path in the table or restore the file")
        if may_be_dicom(path):
            pixels = frame(open_dicom(path), path)
        else:
            pixels = _read_with_pillow(path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); check file and permissions"
        ) from error
    if pixels.shape[0] == channels:
        return pixels
    if channels == 1:
        return np.tensordot(_LUMINANCE, pixels, axes=1)[None]
    return np.repeat(pixels, 3, axis=0)


def preprocess(image: np.ndarray, size: int) -> np.ndarray:
    """Resize (C, H, W) float32 to fit into (C, size, size), aspect kept, centred on black.

    Bilinear with an antialiasing filter of the scale's width. MONAI's ``Resize`` is not used: its Gaussian
    prefilter takes a second for one film of 2048 x 2500 pixels, this takes 6 ms.
    """
    height, width = image.shape[1:]
    scale = size / max(height, width)
    target = (max(1, round(height * scale)), max(1, round(width * scale)))
    resized = functional.interpolate(
        torch.from_numpy(image)[None], size=target, mode="bilinear", antialias=True, align_corners=False
    )[0]
    top, left = (size - target[0]) // 2, (size - target[1]) // 2
    margins = (left, size - target[1] - left, top, size - target[0] - top)
    return functional.pad(resized, margins).clamp_(0, 1).numpy()


def _read_with_pillow(path: Path) -> np.ndarray:
    """(1, H, W) or (3, H, W) float32 in [0, 1]."""
    try:
        with Image.open(path, formats=_PILLOW_FORMATS) as image:
            if image.width * image.height * len(image.getbands()) > MAX_SAMPLES:
                raise DataError(
                    f"{path}: {image.width} x {image.height} pixels; at most {MAX_SAMPLES:,} samples are read"
                )
            upright = ImageOps.exif_transpose(image)
            if upright.mode in ("1", "L", "LA", "La"):
                return np.asarray(upright.convert("L"), dtype=np.float32)[None] / 255
            if upright.mode.startswith(("I", "F")):
                return _stretch(np.asarray(upright, dtype=np.float32))[None]
            return np.moveaxis(np.asarray(upright.convert("RGB"), dtype=np.float32), -1, 0) / 255
    except DataError:
        raise
    except Exception as error:  # Pillow's plug-ins raise whatever they stumble over
        raise DataError(
            f"{path}: not a readable DICOM, PNG, JPEG or TIFF image ({type(error).__name__}); "
            "export it again or remove its row"
        ) from error


def _stretch(values: np.ndarray) -> np.ndarray:
    finite = np.isfinite(values)
    seen = values[finite] if finite.any() else np.zeros(1, np.float32)
    low, high = seen.min(), seen.max()
    return np.where(finite, (np.where(finite, values, low) - low) / max(high - low, 1e-12), 0).astype(
        np.float32
    )
