"""Reading a clip, a cine loop or another file of many frames, as some of its frames."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from mmmed.data.image import preprocess, read_frames

_FORMATS = ("TIFF", "GIF", "PNG", "JPEG")  # of more than one page, but the last


_LOOKED_AT = 64  # pixels a side of a frame that is only looked at


def read_clip(path: Path, *, frames: int, channels: Literal[1, 3], size: int) -> np.ndarray:
    """Frames of a DICOM object, TIFF, GIF or animated PNG at equal distances over the whole clip.

    Frame k of K is the one in the middle of the k-th part, when the clip is cut into K parts of equal length. One that
    has fewer than K shows some more than once, a single picture K times.

    Args:
        path: of the file.
        frames: K.
        channels: 1 for gray, 3 for colour; see `read_image`.
        size: pixels a side; see `preprocess`.

    Returns:
        float32 (channels, K, size, size) in [0, 1].

    Raises:
        DataError: as `read_image`.
    """
    read = read_frames(path, lambda count: _chosen(count, frames), channels=channels, formats=_FORMATS)
    return np.stack([preprocess(one, size) for one in read], axis=1)


def frames_of(path: Path, frames: int) -> tuple[int, np.ndarray]:
    """How many frames a clip has, and some of them as `read_clip` gives them, small and gray. Raises `DataError`."""
    counts = []

    def choose(count: int) -> list[int]:
        counts.append(count)
        return _chosen(count, frames)

    read = read_frames(path, choose, channels=1, formats=_FORMATS)
    return counts[0], np.stack([preprocess(one, _LOOKED_AT) for one in read], axis=1)


def _chosen(count: int, frames: int) -> list[int]:
    """Which of `count` frames are read, from 0, of which `frames` are asked for."""
    return [(2 * k + 1) * count // (2 * frames) for k in range(frames)]
