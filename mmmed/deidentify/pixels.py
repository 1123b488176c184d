"""Text burned into pixels: found by a text detector whatever the header claims, and blackened.

All that the detector sees is masked, whether or not it can be read; but a lone letter that reads as the side marker
of a film, which identifies nobody and tells left from right. Whoever uses a picture in which anything was seen has
a human look at it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from mmmed.deidentify.text_detector import Line, lines, reads

_SIDE_MARKERS = {"L", "R", "l", "r"}
_SURELY = 0.8  # least certainty with which a side marker is read
_LONE = 2.2  # a lone letter is at most so many times as long as wide
_LARGEST_MASKED = 0.25  # an image that is text to this share cannot be cleared by masking
SAME = 0.05  # of the range of the display: text of less contrast is none that anybody would read
_AROUND = 0.05  # of the longer side

_FILLED = (
    0.7  # share of a box that belongs to the line; less, as of a slanting one, is parted into smaller boxes
)
_FINEST = 8  # pixels of the side of the smallest boxes

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Cleared:
    """An image without text, or the word that it cannot be cleared.

    Attributes:
        pixels: float32 (C, H, W) in [0, 1], boxes black.
        boxes: left, top, right, bottom in pixels, right and bottom exclusive.
        markers: boxes of side markers, which are not masked.
        clear: False if text was still found after masking, or the masked share is too large.
    """

    pixels: np.ndarray
    boxes: tuple[Box, ...]
    clear: bool
    markers: tuple[Box, ...] = ()


class Seen(NamedTuple):
    """What a detector saw: boxes of text, and of side markers."""

    boxes: tuple[Box, ...] = ()
    markers: tuple[Box, ...] = ()


def clear_text(pixels: np.ndarray) -> Cleared:
    """Mask the text in an image, float32 (C, H, W) in [0, 1], and look again whether any is left."""
    seen, clear = clear_frames([pixels])
    return Cleared(mask(pixels, seen.boxes) if seen.boxes else pixels, seen.boxes, clear, seen.markers)


def clear_frames(frames: Iterable[np.ndarray]) -> tuple[Seen, bool]:
    """What leaves no text in any frame if its boxes are masked, and whether all are clear then.

    Text may come and go within a clip, so all of every frame, float32 (C, H, W) in [0, 1], is looked at but for what
    is masked already, and for what differs nowhere by more than `SAME` from what was looked at before: of most
    ultrasound clips, the frame around the moving part.
    """
    boxes: tuple[Box, ...] = ()
    markers: tuple[Box, ...] = ()
    before: np.ndarray | None = None
    for frame in frames:
        shown = mask(frame, boxes)
        left, top, right, bottom = region = _unseen(shown, before)
        if left == right:
            continue
        part, longest = shown[:, top:bottom, left:right], max(shown.shape[1:])
        seen = find_text(part, longest)
        markers += _moved(seen.markers, left, top)
        if seen.boxes:
            boxes += _moved(seen.boxes, left, top)
            for _ in range(2):
                boxes += (more := _again(shown, boxes))
                if not more:
                    break
            else:
                if _again(shown, boxes, legible=True):
                    return Seen(boxes, markers), False
        before = mask(_seen(before, shown, region), boxes)
    share = 0.0 if before is None else np.mean(mask(np.ones_like(before[:1]), boxes) == 0)
    return Seen(boxes, markers), bool(share <= _LARGEST_MASKED)


def _again(shown: np.ndarray, boxes: tuple[Box, ...], *, legible: bool = False) -> tuple[Box, ...]:
    """Boxes of text that is seen around boxes once these are masked; ``legible``: of text that can be read."""
    height, width = shown.shape[1:]
    around = round(_AROUND * max(height, width))
    low, high = np.min(boxes, axis=0) - around, np.max(boxes, axis=0) + around
    left, top, right, bottom = max(0, low[0]), max(0, low[1]), min(width, high[2]), min(height, high[3])
    picture = _smoothed(shown.mean(axis=0), boxes)[top:bottom, left:right]
    return tuple(
        box
        for line in lines(picture, max(height, width), again=True)
        if not legible or _is_legible(picture, line)
        for box in _moved(tuple(_cover(line, picture.shape)), int(left), int(top))
    )


def _smoothed(picture: np.ndarray, boxes: tuple[Box, ...]) -> np.ndarray:
    """A picture (H, W) whose boxes are as bright as what is around them: black ones would look like text themselves."""
    size = (2 * round(_AROUND * max(picture.shape)) + 1,) * 2
    free = mask(np.ones((1, *picture.shape), np.float32), boxes)[0]
    filled, known = picture * free, free
    while not known.all():  # from the edges of the boxes inwards
        weight = cv2.blur(known, size)
        around = cv2.blur(filled, size) / np.maximum(weight, 1e-6)
        fresh = (known == 0) & (weight > 1e-3)
        if not fresh.any():
            break
        filled, known = np.where(fresh, around, filled), np.where(fresh, 1, known).astype(np.float32)
    return filled.astype(np.float32)


def _moved(boxes: tuple[Box, ...], x: int, y: int) -> tuple[Box, ...]:
    return tuple((left + x, top + y, right + x, bottom + y) for left, top, right, bottom in boxes)


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


def find_text(pixels: np.ndarray, longest: int = 0) -> Seen:
    """Text in an image, float32 (C, H, W) in [0, 1].

    Args:
        longest: the longer side of the image of which ``pixels`` are a part, in pixels.
    """
    picture = pixels.mean(axis=0)
    boxes: list[Box] = []
    markers: list[Box] = []
    for line in lines(picture, longest or max(picture.shape)):
        (markers if _is_marker(picture, line) else boxes).extend(_cover(line, picture.shape))
    return Seen(tuple(boxes), tuple(markers))


def has_words(pixels: np.ndarray) -> bool:
    """Whether an image, float32 (C, H, W) in [0, 1], holds text that reads as two or more characters."""
    picture = pixels.mean(axis=0)
    return any(_is_legible(picture, line) for line in lines(picture, max(picture.shape)))


def _is_legible(picture: np.ndarray, line: Line) -> bool:
    return sum(letter.isalnum() for letter in reads(picture, line)[0]) >= 2


def _is_marker(picture: np.ndarray, line: Line) -> bool:
    """Whether a line is a lone letter that reads as the side marker of a film."""
    if line.sides.max() > _LONE * line.height:
        return False
    text, sure = reads(picture, line)
    return text.strip() in _SIDE_MARKERS and sure >= _SURELY


def _cover(line: Line, shape: tuple[int, ...]) -> Iterator[Box]:
    """Boxes that hold a line, few where it runs along the picture and small ones where it slants."""
    left, top = np.maximum(np.floor(line.corners.min(0)), 0).astype(int)
    right, bottom = np.minimum(np.ceil(line.corners.max(0)) + 1, shape[::-1]).astype(int)
    inside = np.zeros((max(0, bottom - top), max(0, right - left)), np.uint8)
    if inside.size:
        cv2.fillPoly(inside, [np.round(line.corners - (left, top)).astype(np.int32)], 1)
    waiting = [(int(left), int(top), int(right), int(bottom))] if inside.size else []
    while waiting:
        a, b, c, d = box = waiting.pop()
        part = inside[b - top : d - top, a - left : c - left]
        share = part.mean()
        if share >= _FILLED or (share and max(c - a, d - b) <= _FINEST):
            yield box
        elif share:
            x, y = (a + c) // 2 if c - a > _FINEST else c, (b + d) // 2 if d - b > _FINEST else d
            parts = ((a, b, x, y), (x, b, c, y), (a, y, x, d), (x, y, c, d))
            waiting += [one for one in parts if one[0] < one[2] and one[1] < one[3]]
