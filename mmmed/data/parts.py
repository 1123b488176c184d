"""One modality of a study taken apart: the same study without each of its parts, and where each part lies.

A part of a picture or recording is a window that fades into what stands behind it. Windows are hats on a regular grid
(products of them over the axes) and add up to 1 everywhere: what they say of each place is smooth, and has no edges
of its own that a network could see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from mmmed.data.stored import Stored


@dataclass(frozen=True)
class Parts:
    """P parts of one modality of one study.

    Attributes:
        shown: how a person sees them: places of a picture ("map"), of a clip's frames ("clip"), of several pictures
            ("views") or of a recording ("curve"), or by name.
        without: P records of the modality, each without one part.
        names: (P,) of words, whose texts put together are the note, or of columns; empty where parts are places.
        rest: of a note, what is beyond the tokens that are read.
        windows: of each axis of places (n, length) float32 hats; P is the product of the n, the last axis runs fastest.
        plain: (*shape) float32 what is there, in [0, 1], to be drawn beside it; None where there is nothing to draw.
        step: seconds from place to place of a recording, else 0.
    """

    shown: Literal["map", "clip", "views", "curve", "words", "columns"]
    without: Stored
    names: tuple[str, ...] = ()
    rest: str = ""
    windows: tuple[torch.Tensor, ...] = ()
    plain: np.ndarray | None = None
    step: float = 0.0

    def map_of(self, shares: np.ndarray) -> np.ndarray:
        """(K, P) what each part added -> (K, *shape) at each place, by the windows that cover it."""
        placed = shares.reshape(len(shares), *(len(one) for one in self.windows))
        for axis, one in enumerate(self.windows):
            placed = np.moveaxis(np.tensordot(placed, one.numpy(), axes=(axis + 1, 0)), -1, axis + 1)
        return placed


class Faded:
    """Rows (`mmmed.data.stored.Rows`) of one record's values, in each of which one window has faded.

    Args:
        values: (C, *shape) float32.
        behind: (C, *shape), what is seen where a window has faded.
        windows: see `Parts`; over the axes of the shape.
    """

    def __init__(self, values: torch.Tensor, behind: torch.Tensor, windows: Sequence[torch.Tensor]) -> None:
        self._values, self._change, self._windows = values, behind - values, windows

    def __getitem__(self, rows: np.ndarray) -> torch.Tensor:
        places = np.unravel_index(rows, [len(one) for one in self._windows])
        return torch.stack([self._without(place) for place in zip(*places, strict=True)])

    def _without(self, place: Sequence[int]) -> torch.Tensor:
        window = torch.ones(())
        for one, number in zip(self._windows, place, strict=True):
            window = window[..., None] * one[number]
        return self._values + window * self._change


def faded(
    values: torch.Tensor, behind: torch.Tensor, windows: Sequence[torch.Tensor], present: torch.Tensor
) -> Stored:
    """`Faded` of one record whose flags are `present` (1, T)."""
    total = math.prod(len(one) for one in windows)
    return Stored(Faded(values, behind, windows), present.expand(total, -1))


def hats(length: int, count: int) -> torch.Tensor:
    """(count, length) float32: hats of equal width that add up to 1 at each place; the outer two are flat outside."""
    centre = (torch.arange(length) + 0.5) / length * count - 0.5
    distance = centre.clamp(0, count - 1) - torch.arange(count)[:, None]
    return (1 - distance.abs()).clamp(min=0)
