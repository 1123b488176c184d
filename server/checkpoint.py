"""The state of a run after a round, in one safetensors file: the global model, the server optimiser and a record.

Tensor names carry the part they belong to, ``model/<parameter>`` and ``optimizer/<moment>/<parameter>``; the
header's metadata carries the round's number and record as JSON. One file, renamed into place, cannot be torn.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mmmed.errors import RunError
from mmmed.federation.updates import Arrays
from mmmed.files import write_atomic

FORMAT = 1
_KEPT = 2  # the newest, and the one before it should the disk lose the newest


@dataclass(frozen=True)
class Checkpoint:
    """State after the training of ``round``: the model, the optimiser's moments by name, and the round's record."""

    round: int
    model: Arrays
    moments: dict[str, Arrays]
    record: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint durably, then drop all but the newest two."""
    tensors = {f"model/{key}": value for key, value in checkpoint.model.items()}
    for moment, arrays in checkpoint.moments.items():
        tensors |= {f"optimizer/{moment}/{key}": value for key, value in arrays.items()}
    about = {"format": FORMAT, "round": checkpoint.round, "record": checkpoint.record}
    folder.mkdir(exist_ok=True)
    contiguous = {key: np.asarray(value, np.float32, order="C") for key, value in tensors.items()}
    payload = save(contiguous, {key: json.dumps(value, allow_nan=False) for key, value in about.items()})
    write_atomic(folder / f"round-{checkpoint.round:05d}.safetensors", payload)
    for old in sorted(folder.glob("round-*.safetensors"))[:-_KEPT]:
        old.unlink()


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint, or None before the first round.

    Raises:
        RunError: the file is damaged or of another format.
    """
    files = sorted(folder.glob("round-*.safetensors"))
    if not files:
        return None
    model: Arrays = {}
    moments: dict[str, Arrays] = {}
    try:
        with safe_open(files[-1], framework="numpy") as stored:
            about = {key: json.loads(value) for key, value in (stored.metadata() or {}).items()}
            if about.get("format") != FORMAT:
                raise RunError(f"{files[-1]}: not of format {FORMAT}. Resume with the version that wrote it")
            for name in stored.keys():  # noqa: SIM118 - safe_open is not a mapping
                part, _, key = name.partition("/")
                if part == "model":
                    model[key] = stored.get_tensor(name)
                else:
                    moment, _, key = key.partition("/")
                    moments.setdefault(moment, {})[key] = stored.get_tensor(name)
        return Checkpoint(int(about["round"]), model, moments, about["record"])
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise RunError(f"{files[-1]}: damaged ({error}). Delete it to go on from the one before") from error
