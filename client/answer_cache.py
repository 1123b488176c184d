"""What a site has released, kept so that the same request gets the same answer.

A released update is public: sending it again costs no privacy. Computing it again would. So when a server
lost a round and asks again for the same round from the same parameters, the kept answer is sent. Answers of a
gigabyte are kept, of all runs together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from client.release import Spending
from mmmed.files import replacing

_SPENDING = "spending"
_MOST_BYTES = 1_000_000_000  # of all runs' answers: the oldest go first
_LEAST_KEPT = 4  # answers, the newest, whatever their size


class AnswerCache:
    """The stored answer to one training request, which is named by run, round and incoming parameters."""

    def __init__(
        self, folder: Path, run_id: str, server_round: int, incoming: Mapping[str, torch.Tensor]
    ) -> None:
        """
        Args:
            folder: where the site keeps its answers; `write` makes it.
            run_id: the run that asks.
            server_round: number of the round.
            incoming: parameters that the round starts from, by name; any shape and dtype.
        """
        digest = hashlib.sha256(f"{run_id}\x00{server_round}\x00".encode())
        for name in sorted(incoming):
            digest.update(name.encode() + b"\x00")
            digest.update(incoming[name].detach().cpu().contiguous().numpy().tobytes())
        self._path = folder / f"{digest.hexdigest()[:32]}.safetensors"

    def read(self) -> tuple[dict[str, torch.Tensor], Spending | None] | None:
        """The stored answer, or None if there is none or its file is damaged."""
        try:
            with safe_open(self._path, framework="pt") as file:
                stated = json.loads(file.metadata()[_SPENDING])
                spending = Spending(**stated) if stated else None
                parameters = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None
        return parameters, spending

    def write(self, parameters: Mapping[str, torch.Tensor], spending: Spending | None) -> None:
        """Store an answer; the file is seen whole or not at all."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.detach().cpu().contiguous() for name, value in parameters.items()}
        stated = {_SPENDING: json.dumps(asdict(spending) if spending else None)}
        with replacing(self._path) as partial:
            save_file(tensors, partial, metadata=stated)
        _prune(self._path.parent)


def _prune(folder: Path) -> None:
    """Forget the oldest answers. Should a server ask for one again, that round is charged again."""
    kept = sorted(((path.stat().st_mtime, path) for path in folder.glob("*.safetensors")), reverse=True)
    total = 0
    for place, (_, path) in enumerate(kept):
        total += path.stat().st_size
        if total > _MOST_BYTES and place >= _LEAST_KEPT:
            path.unlink(missing_ok=True)
