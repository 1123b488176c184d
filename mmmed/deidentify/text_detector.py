"""Where print is seen in a picture: the text detector of PP-OCR, on several scales and on tiles of what looks like it.

RapidOCR carries the models and runs them on the CPU, offline. The detector (Liao et al. 2020, arXiv:1911.08947) gives
each pixel the probability that it belongs to the core of a line, whatever its script or turn. It is asked at a coarse
scale for letters as tall as a hand, at a middle one for ordinary print, and for small print in full size; but the
last only where there are many strokes as thin as those of small print, which is cheap to tell and leaves most of a
film out.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np

_COARSE, _MIDDLE = 256, 640  # pixels of the longer side
_SMALL, _SMALLEST = (
    320,
    128,
)  # pixels of the longer side up to which pictures are looked at twice and three times as large
_TILE, _OVERLAP = 160, 24  # pixels of a tile in full size, and of what is seen around it
_TOGETHER = 8  # tiles
_STEP = 32  # the detector takes multiples of it

_STROKE = 7  # pixels: strokes of small print are thinner
_FAINTEST = 0.06  # of the range of the display: contrast of strokes that are looked at
_ABOVE = 4.0  # times the usual contrast of thin structures around them: less is noise
_CELL, _INKED = 16, 14  # pixels of a cell's side; so many of its pixels are strokes where there is print

_CORE, _SURE = 0.2, 0.5  # least probability of a pixel of a line, and their mean over the line
_GROWN = 1.5  # a line is its core, and around it area / circumference times this (the detector shrinks lines)
_TALL = 0.08  # of the longer side: what is smaller is seen better at the middle scale than at the coarse one
_TALLEST, _TALLEST_SMALL = (
    0.3,
    64,
)  # of the longer side; pixels, in tiles: what is taller is anatomy that looks like a letter


class Line(NamedTuple):
    """A line of print: its corners (4, 2) float64, x and y in pixels, and how sure the detector is of it."""

    corners: np.ndarray
    score: float

    @property
    def sides(self) -> np.ndarray:
        """Two sides that meet (2,), in pixels."""
        return np.linalg.norm(np.diff(self.corners[:3], axis=0), axis=1)

    @property
    def height(self) -> float:
        """Of its letters, about, in pixels."""
        return float(self.sides.min())


def lines(picture: np.ndarray, longest: int, *, again: bool = False) -> list[Line]:
    """All lines of print that are seen in a picture, on any scale; one may be seen more than once.

    Args:
        picture: float32 (H, W) in [0, 1].
        longest: longer side in pixels of the image of which this is a part.
        again: at the middle scale alone.
    """
    picture = np.ascontiguousarray(picture, np.float32)
    tallest = _TALLEST * longest
    if longest <= _SMALL:
        scale = 3.0 if longest <= _SMALLEST else 2.0
        return _lines(_whole(picture, scale), scale, tallest)
    middle = _MIDDLE / longest
    found = _lines(_whole(picture, middle), middle, tallest)
    if not again:
        coarse = _COARSE / longest
        found += [
            one for one in _lines(_whole(picture, coarse), coarse, tallest) if one.height > _TALL * longest
        ]
        if middle < 1:
            found += _lines(_in_tiles(picture, found), 1.0, _TALLEST_SMALL)
    return found


def _whole(picture: np.ndarray, scale: float) -> np.ndarray:
    """The detector's map (h, w) of a picture that is brought to another scale."""
    size = tuple(max(1, round(side * scale)) for side in picture.shape[::-1])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return probabilities(cv2.resize(picture, size, interpolation=way)[None])[0]


def probabilities(pictures: np.ndarray) -> np.ndarray:
    """Probabilities [N, H, W] that pixels of pictures [N, H, W] in [0, 1] belong to the core of a line of print."""
    height, width = pictures.shape[1:]
    fill = ((0, 0), (0, -height % _STEP), (0, -width % _STEP))
    padded = np.pad(pictures.clip(0, 1), fill, mode="edge") * 2 - 1
    values = np.repeat(padded[:, None], 3, axis=1).astype(np.float32)
    return np.asarray(_engine().text_det.session(values))[:, 0, :height, :width]


# ------------------------------------------------------------------ small print


def _in_tiles(picture: np.ndarray, known: list[Line]) -> np.ndarray:
    """The detector's map (H, W) in full size of the tiles that may hold small print; 0 elsewhere.

    What lies in lines that are ``known`` is no reason to look at a tile.
    """
    seen = np.zeros_like(picture)
    size = _TILE + 2 * _OVERLAP
    padded = np.pad(picture, _OVERLAP + np.array([(0, -side % _TILE) for side in picture.shape]), "edge")
    corners = list(_tiles_with_strokes(picture, known))
    for start in range(0, len(corners), _TOGETHER):
        some = corners[start : start + _TOGETHER]
        maps = probabilities(np.stack([padded[top : top + size, left : left + size] for top, left in some]))
        for (top, left), one in zip(some, maps, strict=True):
            here = seen[
                max(0, top - _OVERLAP) : top - _OVERLAP + size,
                max(0, left - _OVERLAP) : left - _OVERLAP + size,
            ]
            part = one[max(0, _OVERLAP - top) :, max(0, _OVERLAP - left) :][: here.shape[0], : here.shape[1]]
            np.maximum(here, part, out=here)
    return seen


def _tiles_with_strokes(picture: np.ndarray, known: list[Line]) -> Iterator[tuple[int, int]]:
    """Top and left of the tiles in which cells beside each other are full of thin strokes, bright or dark."""
    kernel = np.ones((_STROKE, _STROKE), np.uint8)
    eight = (picture.clip(0, 1) * 255).astype(np.uint8)
    thin = cv2.max(
        cv2.morphologyEx(eight, cv2.MORPH_TOPHAT, kernel), cv2.morphologyEx(eight, cv2.MORPH_BLACKHAT, kernel)
    )
    usual = cv2.blur(thin, (8 * _CELL + 1, 8 * _CELL + 1)).astype(np.float32)
    strokes = (thin > np.maximum(_FAINTEST * 255, _ABOVE * usual)).astype(np.float32)
    for line in known:
        cv2.fillPoly(strokes, [np.round(line.corners).astype(np.int32)], 0)
    rows, columns = (-(-side // _CELL) for side in picture.shape)
    filled = np.pad(strokes, ((0, rows * _CELL - picture.shape[0]), (0, columns * _CELL - picture.shape[1])))
    cells = filled.reshape(rows, _CELL, columns, _CELL).sum((1, 3)) >= _INKED
    beside = cells & (
        cv2.filter2D(cells.astype(np.float32), -1, np.ones((3, 3)), borderType=cv2.BORDER_CONSTANT) >= 2
    )
    per = _TILE // _CELL
    for row in range(0, rows, per):
        for column in range(0, columns, per):
            if beside[row : row + per, column : column + per].any():
                yield row * _CELL, column * _CELL


# ------------------------------------------------------------------ from maps to lines


def _lines(seen: np.ndarray, scale: float, tallest: float) -> list[Line]:
    """The lines of a map that was made at ``scale``, in pixels of the picture."""
    cores = (seen > _CORE).astype(np.uint8)
    outlines, _ = cv2.findContours(cores, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    found = []
    for outline in outlines:
        centre, (width, height), turn = cv2.minAreaRect(outline)
        left, top, wide, high = cv2.boundingRect(outline)
        inside = np.zeros((high, wide), np.uint8)
        cv2.drawContours(inside, [outline - np.array([left, top])], -1, 1, -1)
        score = float(seen[top : top + high, left : left + wide][inside > 0].mean())
        around = _GROWN * (width + 1) * (height + 1) / (2 * (width + height + 2)) + 1
        grown = (width + 2 * around, height + 2 * around)
        if score >= _SURE and min(grown) / scale <= tallest:
            found.append(Line(cv2.boxPoints((centre, grown, turn)).astype(np.float64) / scale, score))
    return found


# ------------------------------------------------------------------ reading


def reads(picture: np.ndarray, line: Line) -> tuple[str, float]:
    """What a line of a picture, float32 (H, W) in [0, 1], says, and how sure that is; ("", 0.0) if nothing."""
    from rapidocr.utils.process_img import get_rotate_crop_image

    shown = (np.repeat(picture[..., None], 3, axis=2).clip(0, 1) * 255).astype(np.uint8)
    ordered = line.corners[np.argsort(line.corners.sum(1))]  # from the top left
    low, high = ordered[1:3][np.argsort(ordered[1:3, 1])]
    corners = np.array([ordered[0], low, ordered[3], high], np.float32)
    crop = get_rotate_crop_image(shown, corners)
    if min(crop.shape[:2]) < 4:
        return "", 0.0
    result = _engine()(crop, use_det=False, use_cls=False, use_rec=True)
    return (str(result.txts[0]), float(result.scores[0])) if result.txts else ("", 0.0)


@functools.cache
def _engine() -> Any:
    """The detector and the recogniser, loaded once, on one thread each: images are worked on side by side."""
    # Its runtime would write an id of this machine into the home folder and report its use to its maker.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    from rapidocr import RapidOCR  # takes a second to import; only those who clean pixels wait for it

    loaded = RapidOCR(
        params={
            "Global.text_score": 0.0,
            "Global.log_level": "critical",
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        }
    )
    logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)  # it logs what it finds empty, image by image
    cv2.setNumThreads(1)
    loaded(
        np.zeros((_STEP, _STEP, 3), np.uint8), use_cls=False, use_rec=False
    )  # it loads a model when it is asked
    return loaded
