"""Text burned into pixels: found by a text detector whatever the header claims, and blackened.

RapidOCR runs the PP-OCR models that its package carries, on the CPU and offline. A box is masked when it
reads as two or more characters; single ones are the side markers of films and identify nobody.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

_SIDES = (736, 1600)  # pixels of the longer side at which the detector looks; small print needs the larger
_TALLEST = 0.12  # of the longer side: what is taller is anatomy that looks like a letter
_LARGEST_MASKED = 0.25  # an image that is text to this share cannot be cleared by masking

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
    boxes = find_text(pixels)
    if not boxes:
        return Cleared(pixels, (), True)
    masked = mask(pixels, boxes)
    left = find_text(masked)
    if left:
        boxes, masked = boxes + left, mask(masked, left)
        left = find_text(masked)
    share = np.mean(mask(np.ones_like(pixels[:1]), boxes) == 0)
    return Cleared(masked, boxes, not left and bool(share <= _LARGEST_MASKED))


def mask(pixels: np.ndarray, boxes: tuple[Box, ...]) -> np.ndarray:
    """A copy with the boxes black."""
    out = pixels.copy()
    for left, top, right, bottom in boxes:
        out[:, top:bottom, left:right] = 0
    return out


def find_text(pixels: np.ndarray) -> tuple[Box, ...]:
    """Boxes around text of two or more characters in an image, float32 (C, H, W) in [0, 1]."""
    height, width = pixels.shape[1:]
    longest = max(height, width)
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
