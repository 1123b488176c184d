"""A round's updates on disk until the round is over.

Each good update is written as it arrives and read one tensor at a time, so that memory does not grow with the number of
sites, a rule may look at all of them, and a server that died in the middle of a round need not ask again whoever
answered.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mmmed.config import FederationConfig
from mmmed.federation.aggregation import Aggregation
from mmmed.files import write_atomic
from server.checkpoint import Arrays
from server.replies import Answer

log = logging.getLogger(__name__)

OUTLIER = 100.0  # times the median norm of a round's updates; the noise of a small site is far below that
_ABOUT = "about"


@dataclass(frozen=True)
class Update:
    """The update of one site, on disk.

    Attributes:
        answer: what came with it, without the arrays.
        norm: Euclidean norm over all tensors.
        keys: names of the tensors.
        scale: what each value is multiplied by when it is read: below 1 where the norm is bounded.
    """

    answer: Answer
    norm: float
    keys: tuple[str, ...]
    path: Path
    scale: float = 1.0

    @property
    def metrics(self) -> Mapping[str, float]:
        """The numbers that came with the update, by name."""
        return self.answer.metrics

    @property
    def weight(self) -> float:
        """The public weight of the update's site."""
        return self.answer.weight

    def tensor(self, key: str) -> np.ndarray:
        """One tensor of the update by name, float32."""
        (value,) = self.tensors([key])
        return value

    def tensors(self, keys: Sequence[str]) -> list[np.ndarray]:
        """Some tensors of the update, as `tensor` gives each: the file is opened once."""
        with safe_open(self.path, framework="numpy") as stored:
            values = [stored.get_tensor(key) for key in keys]
        return values if self.scale == 1 else [np.asarray(one * np.float32(self.scale)) for one in values]

    def scaled(self, factor: float) -> Update:
        """The same update, ``factor`` times as large."""
        return replace(self, norm=self.norm * factor, scale=self.scale * factor)


class UpdateStore:
    """The updates of one round of one run, in their own folder."""

    def __init__(self, folder: Path, server_round: int, like: Arrays) -> None:
        """Opens what an earlier process received of the same round; drops what belongs to other rounds or is torn."""
        self._folder = folder / f"round-{server_round:05d}"
        for other in folder.glob("round-*") if folder.is_dir() else ():
            if other != self._folder:
                shutil.rmtree(other)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._keys = tuple(like)
        self.updates: list[Update] = []
        for path in sorted(self._folder.glob("*.safetensors")):
            update = _read(path, like)
            if update is None:
                path.unlink()
            else:
                self.updates.append(update)

    def add(self, answer: Answer) -> None:
        """Keep a good answer's update; its arrays may then be forgotten."""
        squares = (np.square(value, dtype=np.float64).sum() for value in answer.arrays.values())
        about: dict[str, Any] = asdict(replace(answer, arrays={})) | {"norm": math.sqrt(sum(squares))}
        for of_no_update in ("arrays", "histograms", "words", "joined"):
            del about[of_no_update]
        path = self._folder / f"{answer.node}.safetensors"
        contiguous = {key: np.asarray(value, np.float32, order="C") for key, value in answer.arrays.items()}
        payload = save(contiguous, {_ABOUT: json.dumps(about, allow_nan=False)})
        write_atomic(path, payload, durable=False)
        self.updates.append(Update(replace(answer, arrays={}), about["norm"], self._keys, path))

    def close(self) -> None:
        """Delete the round's updates."""
        shutil.rmtree(self._folder, ignore_errors=True)


class ByRule:
    """Combines a round's updates by the run's aggregation rule, outliers aside."""

    def __init__(self, config: FederationConfig) -> None:
        self._rule, self._max_norm = config.aggregation, config.max_update_norm
        self._to_median = (
            config.release == "rounds" and not config.max_update_norm and not self._rule.bounds_updates
        )
        self._left: Aggregation | None = None  # what combined the last updates, if it was not the run's rule

    def choose(self, updates: Sequence[Update]) -> tuple[list[Update], set[int]]:
        """The updates that `screen` keeps, sorted by name of the site, and the nodes of the outliers."""
        return screen(by_name(updates), self._max_norm, to_median=self._to_median)

    def combine(self, updates: Sequence[Update], asked: int) -> Arrays:
        """Combine updates into one by the run's rule, or what is left of it, whatever the number of sites ``asked``."""
        rule = self._rule.for_updates(len(updates))
        self._left = None if rule is self._rule else rule
        if self._left is not None:
            log.warning(
                "%d good updates, and %s needs %d: combined by %s",
                *(len(updates), self._rule.kind, self._rule.least_updates, rule.kind),
            )
        return rule.combine(updates)

    def state(self) -> dict[str, Arrays]:
        """Nothing: a rule has no state."""
        return {}

    def restore(self, state: Mapping[str, Arrays]) -> None:
        """Restore nothing: a rule has no state."""

    def statement(self, rounds: int) -> dict[str, Any]:
        """No privacy, since the server adds none; but the rule of the newest round, where it was not the run's."""
        return {} if self._left is None else {"aggregation": self._left.kind}


def by_name(updates: Sequence[Update]) -> list[Update]:
    """Sort updates by name of their site.

    A sum is then the same to the last bit in whatever order they came, or come again after a restart.
    """
    return sorted(updates, key=lambda one: str(one.answer.site))


def screen(
    updates: Sequence[Update], max_norm: float, *, to_median: bool = False
) -> tuple[list[Update], set[int]]:
    """Which updates are aggregated, and the nodes whose update is refused as an outlier.

    An update with `OUTLIER` times the median norm (of at least three) is refused whole. One above ``max_norm``, if that
    is not 0, is scaled down to it (norm bounding, Sun et al. 2019, arXiv 1911.07963, section 4); with ``to_median`` one
    above the median of those that are kept. Noise is most of a private update's norm, and of one size where sites
    are: theirs lie within a few parts of the median, and a hostile minority cannot move it beyond them.
    """
    limit = OUTLIER * float(np.median([one.norm for one in updates])) if len(updates) > 2 else math.inf
    outliers = {one.answer.node for one in updates if one.norm > limit > 0}
    kept = [one for one in updates if one.answer.node not in outliers]
    if to_median and len(kept) > 2:
        max_norm = float(np.median([one.norm for one in kept]))
    if max_norm > 0:
        kept = [one.scaled(max_norm / one.norm) if one.norm > max_norm else one for one in kept]
    return kept, outliers


def _read(path: Path, like: Arrays) -> Update | None:
    try:
        with safe_open(path, framework="numpy") as stored:
            about: dict[str, Any] = json.loads((stored.metadata() or {})[_ABOUT])
            shapes = {key: tuple(stored.get_slice(key).get_shape()) for key in stored.keys()}  # noqa: SIM118
        norm = float(about.pop("norm"))
        about = {key: value for key, value in about.items() if key in Answer.__dataclass_fields__}
        answer = Answer(**about)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
    return Update(answer, norm, tuple(like), path) if shapes == shapes_of(like) else None


def shapes_of(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """The shape of each array, by name."""
    return {key: np.shape(value) for key, value in arrays.items()}
