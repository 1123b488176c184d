"""Pictures of an explanation: what the model read, and the same with what each place did laid over it.

Colours are told apart by everybody (orange and blue, of different lightness), and never alone: what raises the number
has a solid outline, what lowers it a dashed one, and a cross marks the place that did most.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion, zoom

from mmmed.inference.explain import Detail

_UP, _DOWN = np.array([255, 140, 20.0]), np.array([60, 150, 255.0])
_SIDE = 448  # pixels of a picture, about
_OUTLINED = 0.5  # of the largest share: from there on a place is outlined
_GAP = 12
_VIEWS = ("from below", "from the front", "from the right")


@dataclass(frozen=True)
class Pair:
    """One view of what was read, (h, w, 3) uint8, without and with what each place did, and what it shows."""

    view: str
    plain: np.ndarray
    heat: np.ndarray


def pairs(detail: Detail, number: int) -> list[Pair]:
    """Of a picture one pair; of others three, about the place that did most to the prediction's `number`.

    Of a volume these are slices through it, of a clip its frame and those before and after it; of several views all.
    """
    if detail.map is None or detail.plain is None or detail.shown == "curve":
        return []
    heat = detail.map[number]
    most = float(np.abs(heat).max()) or 1.0
    planes = {"map": _slices, "clip": _frames, "views": _views}[detail.shown]
    return [_pair(view, plain, own / most) for view, plain, own in planes(detail.plain, heat)]


def _views(plain: np.ndarray, heat: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for number, (own, did) in enumerate(zip(plain, heat, strict=True)):
        yield f"view {number + 1} of {len(plain)}", own, did


def _frames(plain: np.ndarray, heat: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    total, middle = len(heat), int(np.abs(heat).reshape(len(heat), -1).max(1).argmax())
    for at in range(max(0, middle - 1), min(total, middle + 2)):
        yield f"frame {at + 1} of {total}", plain[at], heat[at]


def _slices(plain: np.ndarray, heat: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    if plain.ndim == 2:
        yield "", plain, heat
        return
    place = np.unravel_index(int(np.abs(heat).argmax()), heat.shape)
    for axis, view in enumerate(_VIEWS):  # axes run to superior, anterior, right: seen as radiologists do
        own = [np.take(one, place[axis], axis)[::-1, ::-1] for one in (plain, heat)]
        yield view, own[0], own[1]


def _pair(view: str, plain: np.ndarray, heat: np.ndarray) -> Pair:
    times = max(1, _SIDE // max(plain.shape))
    grey = np.repeat(zoom(plain.clip(0, 1), times, order=1)[..., None] * 255, 3, axis=2)
    large = zoom(heat, times, order=1)
    strength = 0.65 * np.abs(large)[..., None].clip(0, 1)
    colour = np.where((large > 0)[..., None], _UP, _DOWN)
    shown = grey * (1 - strength) + colour * strength
    rows, columns = np.indices(large.shape)
    dashed = (rows + columns) // 6 % 2 == 0
    for mask, own, drawn in ((large >= _OUTLINED, _UP, True), (large <= -_OUTLINED, _DOWN, dashed)):
        shown[mask & ~binary_erosion(mask, iterations=2) & drawn] = own
    _cross(shown, np.unravel_index(int(np.abs(large).argmax()), large.shape))
    return Pair(view, grey.astype(np.uint8), shown.clip(0, 255).astype(np.uint8))


def _cross(shown: np.ndarray, place: tuple[np.intp, ...]) -> None:
    row, column = map(int, place)
    for colour, width in ((0, 2), (255, 0)):  # white with a black rim: seen on anything
        for down, across in ((7 + width, 1 + width), (1 + width, 7 + width)):
            shown[max(0, row - down) : row + down + 1, max(0, column - across) : column + across + 1] = colour


def png(picture: np.ndarray) -> bytes:
    """A PNG file of (h, w, 3) uint8."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    return file.getvalue()


def inline(picture: np.ndarray) -> str:
    """The same as an address that holds it, for a page."""
    return "data:image/png;base64," + base64.b64encode(png(picture)).decode("ascii")


def sheet(found: list[Pair]) -> np.ndarray:
    """All pairs as one picture, a row each: without what each place did on the left, with it on the right."""
    width = max(one.plain.shape[1] for one in found)
    rows: list[np.ndarray] = []
    for one in found:
        row = np.full((one.plain.shape[0] + _GAP * bool(rows), 2 * width + _GAP, 3), 255, np.uint8)
        below = row[_GAP * bool(rows) :]
        below[:, : one.plain.shape[1]] = one.plain
        below[:, width + _GAP : width + _GAP + one.heat.shape[1]] = one.heat
        rows.append(row)
    return np.concatenate(rows)
