"""How a file becomes a row of numbers, and what that row is read as: the one way of training and of a single study."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch

_LARGEST = np.float32(65535)


class Form(Protocol):
    """How a file becomes a row, such as `mmmed.modalities.image.ImageForm`."""

    @property
    def name(self) -> str:
        """Names the version and all options, and is part of a file name: equal names mean equal values."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a row."""

    def build(self, path: Path) -> np.ndarray:
        """The file as float32 of `shape` in [0, 1]. Raises `DataError` naming the file if it cannot be used."""


def kept_row(form: Form, path: Path) -> np.ndarray:
    """A file as it is kept, little-endian uint16 of the form's shape. Raises as `Form.build`."""
    return (form.build(path) * _LARGEST).round().astype("<u2")


def read_row(row: np.ndarray, out: np.ndarray) -> None:
    """A kept row into float32 in [0, 1], in one pass."""
    np.divide(row, _LARGEST, out=out, dtype=np.float32)


def asked_rows(form: Form, path: Path | None) -> torch.Tensor:
    """The rows, (1, *shape), of a table that names this one file; zeros if it names none. Nothing is kept.

    Raises `DataError` naming the file if it cannot be used, `OSError` if it cannot be read.
    """
    out = np.zeros((1, *form.shape), dtype=np.float32)
    if path is not None:
        read_row(kept_row(form, path), out[0])
    return torch.from_numpy(out)
