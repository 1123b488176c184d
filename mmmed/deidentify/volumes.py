"""Text burned into slices of a volume, such as captures of a screen that were stored as a series.

Looking at each slice as at a film would cost minutes a volume. Instead a few neighbours are looked at together: what
is thinner than a stroke of a letter and brighter (then: darker) than what is around it, wherever it is most so. Most
anatomy is thicker, so it hides no text of another slice. What looks like text there is looked at slice by slice.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from scipy import ndimage

from mmmed.deidentify.pixels import SAME, has_words

_TOGETHER = 8  # slices
_STROKE = 0.03  # of the longer side of a slice: strokes of the tallest text that is looked for are thinner
_SMALLEST = 8  # pixels: a narrower slice holds no letters that anybody would read
_SHEET = 256  # pixels a side: smaller pictures are looked at on one sheet
_PERCENTILES = (0.5, 99.5)
_SAMPLED = 1 << 16  # values of which percentiles are taken


def has_text(volume: np.ndarray, axes: Sequence[int]) -> bool:
    """Whether text is found in any plane of a finite volume, float32 (A, B, C), across one of ``axes``."""
    return any(
        _in_slices(np.moveaxis(volume, axis, 0))
        for axis in axes
        if min(np.delete(volume.shape, axis)) >= _SMALLEST
    )


def _in_slices(slices: np.ndarray) -> bool:
    """Slices (N, H, W) are looked at one by one only where something like text is seen in several at once."""
    together = [slices[start : start + _TOGETHER] for start in range(0, len(slices), _TOGETHER)]
    suspects = _with_text(((number, one) for number, few in enumerate(together) for one in _thin(few)))
    return any(_with_text(enumerate(map(_scaled, together[number]))) for number in suspects)


def _thin(slices: np.ndarray) -> Iterator[np.ndarray]:
    """Thin bright, then thin dark structures of slices (N, H, W) over each other: (H, W) in [0, 1]."""
    width = 2 * max(1, round(_STROKE * max(slices.shape[1:]) / 2)) + 1
    filters: tuple[Callable[..., np.ndarray], ...] = (ndimage.white_tophat, ndimage.black_tophat)
    values = _scaled(slices)
    for thin in filters:
        shown = thin(values, size=(1, width, width)).max(axis=0)
        yield (shown / max(_percentiles(shown)[1], SAME)).clip(0, 1)


def _scaled(values: np.ndarray) -> np.ndarray:
    low, high = _percentiles(values)
    if high <= low:
        low, high = values.min(), values.max()
    return ((values - low) / max(high - low, 1e-12)).clip(0, 1).astype(np.float32)


def _with_text(pictures: Iterable[tuple[int, np.ndarray]]) -> set[int]:
    """The numbers of pictures (H, W) in [0, 1] on whose sheet text is found; what stays free of a sheet is black."""
    found: set[int] = set()
    rest = iter(pictures)
    while first := next(rest, None):
        height, width = first[1].shape
        side = max(_SHEET, height, width)
        rows, columns = side // height, side // width
        sheet = np.zeros((1, side, side), np.float32)
        together = [first, *itertools.islice(rest, rows * columns - 1)]
        for place, (_, picture) in enumerate(together):
            top, left = place // columns * height, place % columns * width
            sheet[0, top : top + height, left : left + width] = picture
        if has_words(sheet):
            found.update(number for number, _ in together)
    return found


def _percentiles(values: np.ndarray) -> np.ndarray:
    flat = values.reshape(-1)
    return np.percentile(flat[:: max(1, len(flat) // _SAMPLED)], _PERCENTILES)
