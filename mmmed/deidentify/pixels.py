"""Text burned into pixels: found by a text detector whatever the header claims, and blackened.

RapidOCR runs the PP-OCR models that its package carries, on the CPU and offline. A box is masked when it
reads as two or more characters; single ones are the side markers of films and identify nobody.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

_SIDES = (736, 1600)  # pixels of the longer side at which the detector looks; small print needs the larger
_TALLEST = 0.12  # of the longer side: what is taller is anatomy that looks like a letter
_LARGEST_MASKED = 0.25  # an image that is text to this share cannot be cleared by masking
SAME = 0.05  # of the range of the display: text of less contrast is none that anybody would read
_AROUND = 0.05  # of the longer side

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Cleared:
    """An image without text, or the word that it cannot be cleared.

    Attributes:
        pixels: float32 (C, H, W) in [0, 1], boxes black.
        boxes: left, top, right, bottom in pixels, right and bottom exclusive.
        clear: False if text was still found after masking, or the masked share is too large.
    """

    pixels: np.ndarray
    boxes: tuple[Box, ...]
    clear: bool


def clear_text(pixels: np.ndarray) -> Cleared:
    """Mask the text in an image, float32 (C, H, W) in [0, 1], and look again whether any is left."""
    boxes, clear = clear_frames([pixels])
    return Cleared(mask(pixels, boxes) if boxes else pixels, boxes, clear)


def clear_frames(frames: Iterable[np.ndarray]) -> tuple[tuple[Box, ...], bool]:
    """Boxes that leave no text in any frame, each float32 (C, H, W) in [0, 1], and whether all are clear then.

    Text may come and go within a clip, so all of every frame is looked at but for what is masked already, and for
    what differs nowhere by more than `SAME` from what was looked at before: of most ultrasound clips, the frame
    around the moving part.
    """
    boxes: tuple[Box, ...] = ()
    seen: np.ndarray | None = None
    for frame in frames:
        shown = mask(frame, boxes)
        left, top, right, bottom = region = _unseen(shown, seen)
        if left == right:
            continue
        part = shown[:, top:bottom, left:right]
        for _ in range(2):
            found = find_text(part, max(shown.shape[1:]))
            part = mask(part, found)
            boxes += tuple((left + a, top + b, left + c, top + d) for a, b, c, d in found)
            if not found:
                break
        else:
            if find_text(part, max(shown.shape[1:])):
                return boxes, False
        seen = mask(_seen(seen, shown, region), boxes)
    share = 0.0 if seen is None else np.mean(mask(np.ones_like(seen[:1]), boxes) == 0)
    return boxes, bool(share <= _LARGEST_MASKED)


def _unseen(shown: np.ndarray, seen: np.ndarray | None) -> Box:
    """The part of a frame that has changed since it was searched for text, with a margin; empty if none has."""
    height, width = shown.shape[1:]
    if seen is None:
        return 0, 0, width, height
    rows, columns = np.nonzero((np.abs(shown - seen) > SAME).any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    around = round(_AROUND * max(height, width))
    return (
        int(max(columns.min() - around, 0)), int(max(rows.min() - around, 0)),
        int(min(columns.max() + 1 + around, width)), int(min(rows.max() + 1 + around, height)),
    )  # fmt: skip


def _seen(seen: np.ndarray | None, shown: np.ndarray, region: Box) -> np.ndarray:
    """The pixels as they were when last searched, so that slow changes from frame to frame add up."""
    left, top, right, bottom = region
    now = shown.copy() if seen is None else seen
    now[:, top:bottom, left:right] = shown[:, top:bottom, left:right]
    return now


def mask(pixels: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """A copy with the boxes black."""
    out = pixels.copy()
    for left, top, right, bottom in boxes:
        out[:, top:bottom, left:right] = 0
    return out


def find_text(pixels: np.ndarray, longest: int = 0) -> tuple[Box, ...]:
    """Boxes around text of two or more characters in an image, float32 (C, H, W) in [0, 1].

    ``longest`` is the longer side of the image of which ``pixels`` are a part, in pixels.
    """
    height, width = pixels.shape[1:]
    longest = longest or max(height, width)
    sides = _SIDES if longest > _SIDES[0] else _SIDES[:1]
    found: list[Box] = []
    for side in sides:
        scale = side / longest
        size = (max(32, round(height * scale)), max(32, round(width * scale)))
        resized = functional.interpolate(
            torch.from_numpy(pixels)[None], size=size, mode="bicubic", antialias=True
        )[0]
        image = (resized.clamp(0, 1) * 255).to(torch.uint8).numpy()
        result = _detector()(np.moveaxis(np.broadcast_to(image, (3, *size)), 0, -1).copy(), use_cls=False)
        if result.boxes is None:
            continue
        for corners, text in zip(np.asarray(result.boxes), result.txts, strict=True):
            plausible = np.ptp(corners, axis=0).min() <= _TALLEST * side
            if plausible and sum(character.isalnum() for character in text) >= 2:
                low, high = corners.min(0) * (width / size[1], height / size[0]), corners.max(0)
                high = high * (width / size[1], height / size[0])
                left, top = np.maximum(np.floor(low), 0).astype(int)
                right, bottom = np.minimum(np.ceil(high) + 1, (width, height)).astype(int)
                found.append((int(left), int(top), int(right), int(bottom)))
    return tuple(found)


@functools.cache
def _detector() -> Any:
    # Its runtime would write an id of this machine into the home folder and report its use to its maker.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    from rapidocr import RapidOCR  # takes a second to import; only those who clean pixels wait for it

    detector = RapidOCR(
        params={
            "Det.box_thresh": 0.4,
            "Det.thresh": 0.2,
            "Global.text_score": 0.0,
            "Global.log_level": "critical",
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        }
    )
    logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)  # it logs what it finds empty, image by image
    return detector
