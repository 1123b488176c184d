"""A site's update, as the rules and strategies that combine updates see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[np.float32]]


class SiteUpdate(Protocol):
    """One site's update, read some tensors at a time.

    Attributes:
        keys: names of the tensors, those of the model.
        norm: Euclidean norm over all tensors.
        weight: the public weight of the site, above 0 and 1 at most.
        metrics: numbers that came with it, by name; the site chose them.
    """

    @property
    def keys(self) -> tuple[str, ...]: ...

    @property
    def norm(self) -> float: ...

    @property
    def weight(self) -> float: ...

    @property
    def metrics(self) -> Mapping[str, float]: ...

    def tensor(self, key: str) -> npt.NDArray[np.float32]:
        """The tensor with this key."""

    def tensors(self, keys: Sequence[str]) -> Sequence[npt.NDArray[np.float32]]:
        """The tensors with these keys, in order."""

    def scaled(self, factor: float) -> Self:
        """This update, multiplied by ``factor``."""
