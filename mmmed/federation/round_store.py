"""Tensors that a site keeps from one round of a run to the next (a control variate, what rounding left over).

They are made from what the site released, stay at the site and cost no privacy. A round that is asked again finds what
it found the first time: a file belongs to the round that wrote it, and only later rounds read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mmmed.files import replacing

_KEPT = 2


class RoundStore:
    """Tensors of one kind that a run keeps from round to round, in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def before(self, server_round: int, like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Tensors of the last earlier round, float32; zeros in the shapes of ``like`` if none can be read."""
        earlier = [path for path in self._files() if _round(path) < server_round]
        try:
            found = load_file(earlier[-1]) if earlier else {}
        except (SafetensorError, OSError):
            found = {}
        if {name: value.shape for name, value in found.items()} == {n: v.shape for n, v in like.items()}:
            return found
        return {name: torch.zeros(value.shape) for name, value in like.items()}

    def write(self, server_round: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep the tensors of a round for later rounds; a crash leaves the file as it was or whole."""
        self._folder.mkdir(parents=True, exist_ok=True)
        target = self._folder / f"round-{server_round:05d}.safetensors"
        with replacing(target) as partial:
            save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, partial)
        for old in [path for path in self._files() if _round(path) <= server_round][:-_KEPT]:
            old.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("round-*.safetensors"))


def _round(path: Path) -> int:
    return int(path.stem.removeprefix("round-"))
