"""Reading one image file of any supported kind into the range [0, 1], and into the size that a run asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional

from mmmed.dicom.file import may_be_dicom, open_dicom
from mmmed.dicom.pixels import MAX_SAMPLES, frame_count, frames
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
    return read_frames(path, lambda count: [0], channels=channels, formats=_PILLOW_FORMATS)[0]


def read_frames(
    path: Path,
    choose: Callable[[int], Sequence[int]],
    *,
    channels: Literal[1, 3],
    formats: tuple[str, ...],
) -> list[np.ndarray]:
    """Read some frames of a file as `read_image` reads the first; what is stretched is so over all of them.

    Args:
        path: a DICOM object, or a file of one of `formats`.
        choose: is given how many frames there are, and says which are read, from 0.
        channels: of a frame.
        formats: as Pillow names them.

    Returns:
        float32 (channels, H, W) each; no two need be of one size.

    Raises:
        DataError: as `read_image`.
    """
    try:
        if not path.is_file():
            raise DataError(f"{path}: no such file; correct the path in the table or restore the file")
        if may_be_dicom(path):
            dataset = open_dicom(path)
            read = frames(dataset, path, choose(frame_count(dataset, path)))
        else:
            read = _read_with_pillow(path, choose, formats)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); check file and permissions"
        ) from error
    return [_of_channels(pixels, channels) for pixels in read]


def _of_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
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


def _read_with_pillow(
    path: Path, choose: Callable[[int], Sequence[int]], formats: tuple[str, ...]
) -> list[np.ndarray]:
    """(1, H, W) or (3, H, W) float32 in [0, 1] of each frame, or page, that is chosen."""
    try:
        with Image.open(path, formats=formats) as image:
            if image.width * image.height * len(image.getbands()) > MAX_SAMPLES:
                raise DataError(
                    f"{path}: {image.width} x {image.height} pixels; at most {MAX_SAMPLES:,} samples are read"
                )
            read: list[np.ndarray] = []
            deep = False
            for number in choose(getattr(image, "n_frames", 1)):
                image.seek(number)
                upright = ImageOps.exif_transpose(image)
                if upright.mode in ("1", "L", "LA", "La"):
                    read.append(np.asarray(upright.convert("L"), dtype=np.float32)[None] / 255)
                elif upright.mode.startswith(("I", "F")):
                    deep = True
                    read.append(np.asarray(upright, dtype=np.float32)[None])
                else:
                    colour = np.asarray(upright.convert("RGB"), dtype=np.float32)
                    read.append(np.moveaxis(colour, -1, 0) / 255)
            return _stretch(read) if deep else read
    except DataError:
        raise
    except Exception as error:  # Pillow's plug-ins raise whatever they stumble over
        known = ", ".join(("DICOM", *formats[:-1]))
        raise DataError(
            f"{path}: not a readable {known} or {formats[-1]} image ({type(error).__name__}); "
            "export it again or remove its row"
        ) from error


def _stretch(read: list[np.ndarray]) -> list[np.ndarray]:
    """From the smallest to the largest value of all, which float32 may not hold the difference of."""
    seen = [values[np.isfinite(values)].astype(np.float64) for values in read]
    low = min((values.min() for values in seen if len(values)), default=0.0)
    high = max((values.max() for values in seen if len(values)), default=0.0)
    return [_from(values.astype(np.float64), low, max(high - low, 1e-12)) for values in read]


def _from(values: np.ndarray, low: float, span: float) -> np.ndarray:
    finite = np.isfinite(values)
    shown: np.ndarray = np.where(finite, (np.where(finite, values, low) - low) / span, 0).astype(np.float32)
    return shown
