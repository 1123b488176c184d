"""Clips, cine loops and other images of many frames: every frame is looked at, and all are kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import Dataset

from mmmed.deidentify.header import was_masked
from mmmed.deidentify.pixels import clear_frames, mask
from mmmed.dicom.file import open_dicom
from mmmed.dicom.pixels import frame, frame_count, range_of
from mmmed.errors import DataError
from mmmed.files import replacing
from mmmed.ingest.contact_sheets import write_pair
from mmmed.ingest.items import Written, is_sample, spacing_of
from mmmed.ingest.sources import Found

MAX_VALUES = 1 << 28  # bytes of a clip unpacked: 580 frames of 768 x 600 in gray
_MILLISECONDS = 100  # a frame, for whoever looks at it; sources rarely state it


def write_clip(found: Found, item: str, out: Path) -> Written:
    """Write all frames of a DICOM object as an animated PNG of 8 bits, each as a display shows it, without text.

    Text that is seen in any frame is blackened in all. A clip in which something was seen waits for a human, as an
    image does (`write_image`); the pair of pictures shows each point as bright as it gets in any frame, and the
    clip itself can be played in a browser.

    Raises:
        DataError: it has too many frames, frames of several sizes, or cannot be read.
    """
    dataset = open_dicom(found.path)
    count = frame_count(dataset, found.origin)
    ends = range_of(dataset, found.origin, range(count))

    def shown() -> Iterator[np.ndarray]:
        for index in range(count):
            yield frame(dataset, found.origin, index, ends)

    brightest = next(shown())
    if count * brightest.size > MAX_VALUES:
        raise DataError(
            f"{found.origin}: clip of {count} frames of {brightest.shape[1:]} pixels: cut it into shorter ones"
        )

    def looked_at() -> Iterator[np.ndarray]:
        for pixels in shown():
            if pixels.shape != brightest.shape:
                raise DataError(f"{found.origin}: clip of frames of several sizes; export it again")
            np.maximum(brightest, pixels, out=brightest)
            yield pixels

    seen, clear = clear_frames(looked_at())
    shape, spacing = (count, *brightest.shape[1:]), (0.0, *spacing_of(dataset, found))
    if not clear:
        return Written("", shape, spacing, "", len(seen.boxes))
    held = bool(any(seen) or was_masked(dataset) or is_sample(item))
    written = Written(f"clips/{item}.png", shape, spacing, "", len(seen.boxes), held=held)
    if held:
        write_pair(out, item, brightest, seen)
    target = written.place(item, out)
    target.parent.mkdir(mode=0o700, exist_ok=True)
    with replacing(target) as partial:
        _save([_picture(mask(pixels, seen.boxes)) for pixels in shown()], partial)
    return written


def _picture(pixels: np.ndarray) -> Image.Image:
    values = (pixels * 255).round().astype(np.uint8)
    return Image.fromarray(values[0] if len(values) == 1 else np.moveaxis(values, 0, -1))


def _save(pictures: list[Image.Image], path: Path) -> None:
    # Pillow would drop a frame that is as the one before, if it is drawn alike; over and in place of are the same here.
    drawn = [number % 2 for number in range(len(pictures))]
    pictures[0].save(
        path, "PNG", save_all=True, append_images=pictures[1:], duration=_MILLISECONDS, loop=0, blend=drawn
    )


def is_clip(dataset: Dataset) -> bool:
    """Whether an image has several frames, by what it states; one that states no number is read as one frame."""
    try:
        return frame_count(dataset, "") > 1
    except DataError:
        return False
