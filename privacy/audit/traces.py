"""S8: after a step, nothing that it leaves behind holds the sum without its noise.

Everything reachable from the step, the site's own optimiser and the model, and every file written meanwhile, is
searched for numbers that the noise-free sums of two patients explain, at any scale and in any combination, or
their squares. The noise is far larger than claimed, so that what passed through it cannot look like its sum.
"""

from __future__ import annotations

import io
import math
import os
import sys
import types
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.signal import oaconvolve
from torch import nn

from privacy.audit.releases import quiet_step, rows_of
from privacy.audit.result import Check, certain
from privacy.audit.stand_in import stand_in
from privacy.audit.subject import Subject, seeded
from privacy.clipping.validate import trainable

_NOISE = 30.0  # at least
_LIKE = 0.8  # share of a value's variance that the sums must explain
_SHORTEST = 48  # numbers: fewer may be alike by chance
_MOST_OBJECTS = 300_000
_STRETCHES = 2  # tensors that are looked for inside longer arrays
_CAPS = (1e-3, 1.0, 1e3)  # larger numbers are left out: bytes read as numbers have all sizes
_OPAQUE = (str, int, float, complex, bool, type(None), type, types.ModuleType, torch.device, torch.dtype)


def trace_check(subject: Subject) -> Check:
    """S8: take steps with two patients, alone and together, and search for traces of the sum after each."""
    found = next((where for one in (stand_in(subject), subject) if (where := _search(one))), "")
    return certain(
        "S8",
        "nothing but the noisy sum outlasts a step",
        found or "no trace of the sum in optimiser, step, model or files",
        not found,
    )


def _search(subject: Subject) -> str:
    with seeded(0):
        model = subject.make_model()
    records = rows_of(subject)
    batches = [records[1][:1], records[2][:1], torch.cat([records[1][:1], records[2][:1]])]
    sought = _Sought(_quiet_sums(subject, model, batches[:2]))
    optimizer = subject.make_optimizer(model)
    step = subject.step(model, optimizer, max(_NOISE, subject.claim.noise_multiplier))
    before = {way: array.copy() for way, array in _arrays(step, optimizer, model)}
    files = _files(subject)
    for rows in batches:
        with seeded(0), _files_written() as written:
            step(lambda part, rows=rows: subject.losses(model, rows[part]), subject.units[rows])  # type: ignore[misc]
        for way, array in _arrays(step, optimizer, model):
            old = before.get(way)
            if sought.found_in(array - old if old is not None and old.shape == array.shape else array):
                return f"{way} holds the sum without noise"
        changed = [path for path, state in _files(subject).items() if files.get(path) != state]
        for path in {*changed, *written}:
            if path.is_file() and sought.found_in_file(path):
                return f"the file {path.name} holds the sum without noise"
    return ""


def _quiet_sums(subject: Subject, model: nn.Module, batches: list[torch.Tensor]) -> list[np.ndarray]:
    """The noise-free sum of each batch, by tensor: float64 [batches, coordinates]."""
    step, recorder = quiet_step(subject, model)
    for rows in batches:
        with seeded(0):
            step(lambda part, rows=rows: subject.losses(model, rows[part]), subject.units[rows])  # type: ignore[misc]
    released = recorder.take(subject)
    if len(released) != len(batches):
        return []  # C9 and S9 say so
    ends = np.cumsum([p.numel() for p in trainable(model).values()])
    for parameter in trainable(model).values():
        parameter.grad = None
    return np.split(released, ends[:-1], axis=1)


class _Sought:
    """The sums, as directions to look for.

    Args:
        sums: of each tensor, float64 [batches, coordinates].
    """

    def __init__(self, sums: list[np.ndarray]) -> None:
        usable = [part for part in sums if part.shape[1] >= _SHORTEST and (np.ptp(part, axis=1) > 0).all()]
        self._whole: dict[int, list[np.ndarray]] = {}
        for part in usable:
            squares = np.stack([part[0] ** 2, part[1] ** 2, part[0] * part[1]])
            self._whole.setdefault(part.shape[1], []).extend([_basis(part), _basis(squares)])
        largest = sorted(usable, key=lambda part: part.shape[1])[-_STRETCHES:]
        self._parts = [_basis(part) for part in largest]

    def found_in(self, array: np.ndarray, caps: tuple[float, ...] = (math.inf,)) -> bool:
        """Whether the sums or their squares explain the array, or the sums a stretch of it; beyond a cap nothing."""
        values = array.reshape(-1).astype(np.float64)
        values = np.where(np.abs(values) < 1e15, values, 0.0)
        if not values.any():
            return False
        own = values - values.mean()
        total = _LIKE * float(own @ own)
        if total > 0 and any(((basis @ own) ** 2).sum() > total for basis in self._whole.get(len(own), ())):
            return True
        return any(
            _stretch(np.where(np.abs(values) < cap, values, 0.0), basis)
            for basis in self._parts
            if len(values) > basis.shape[1]
            for cap in caps
        )

    def found_in_file(self, path: Path) -> bool:
        """Whether the sums or their squares explain a file's bytes, read as numbers."""
        content = path.read_bytes()
        for kind in (np.float32, np.float64):
            width = np.dtype(kind).itemsize
            for offset in range(min(width, len(content))):
                values = np.frombuffer(content, kind, (len(content) - offset) // width, offset)
                if self.found_in(values, _CAPS):
                    return True
        return False


def _basis(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.qr((vectors - vectors.mean(1, keepdims=True)).T)[0].T


def _stretch(values: np.ndarray, basis: np.ndarray) -> bool:
    """Whether some stretch of the values is explained by the basis."""
    length = basis.shape[1]
    ones = np.ones(length)
    total = oaconvolve(values**2, ones, "valid") - oaconvolve(values, ones, "valid") ** 2 / length
    inside = sum(oaconvolve(values, direction[::-1], "valid") ** 2 for direction in basis)
    floor = 1e-6 * float((values**2).max()) * length  # below, convolution is not exact enough to tell
    return bool((inside > _LIKE * np.maximum(total, floor)).any())


_writing: list[Path] | None = None


def _on_event(event: str, args: tuple[Any, ...]) -> None:
    if (
        event == "open"
        and _writing is not None
        and isinstance(args[0], str)
        and args[2] & (os.O_WRONLY | os.O_RDWR)
    ):
        _writing.append(Path(args[0]))


@cache
def _listen() -> None:
    sys.addaudithook(_on_event)  # it cannot be removed; it does nothing unless asked to


@contextmanager
def _files_written() -> Iterator[list[Path]]:
    """The files that Python code opens for writing meanwhile, wherever they are."""
    global _writing
    _listen()
    opened: list[Path] = []
    _writing = opened
    try:
        yield opened
    finally:
        _writing = None


def _files(subject: Subject) -> dict[Path, tuple[int, int]]:
    """Every file in the subject's folders, with size and time of change."""
    found = {}
    for folder in subject.folders:
        for path in folder.rglob("*"):
            if path.is_file():
                status = path.stat()
                found[path] = (status.st_size, status.st_mtime_ns)
    return found


def _arrays(*roots: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Every array of real numbers that can be reached, by the way that leads to it."""
    ways = [(type(root).__name__, root) for root in roots]
    seen: dict[int, Any] = {}  # held, so that no id is used again
    while ways and len(seen) < _MOST_OBJECTS:
        way, thing = ways.pop()
        if isinstance(thing, _OPAQUE) or id(thing) in seen:
            continue
        seen[id(thing)] = thing
        if isinstance(thing, torch.Tensor):
            if thing.is_floating_point() and thing.layout == torch.strided and thing.numel() >= _SHORTEST:
                yield way, thing.detach().to("cpu", torch.float64).numpy()
            if thing.is_leaf and thing.grad is not None:
                ways.append((f"{way}.grad", thing.grad))
        elif isinstance(thing, np.ndarray) and thing.dtype.kind == "f" and thing.size >= _SHORTEST:
            yield way, thing
        elif isinstance(thing, bytes | bytearray | io.BytesIO):
            content = thing.getvalue() if isinstance(thing, io.BytesIO) else bytes(thing)
            yield way, np.frombuffer(content[: len(content) // 4 * 4], np.float32)
        ways += [(f"{way}{name}", inner) for name, inner in _inside(thing)]


def _inside(thing: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, Mapping):
        for number, (key, value) in enumerate(list(thing.items())):
            yield f"[{key if isinstance(key, str | int) else number}]", value
            yield f".key{number}", key
    elif isinstance(thing, list | tuple | set | frozenset | deque):
        for number, value in enumerate(list(thing)):
            yield f"[{number}]", value
    for name, value in list(getattr(thing, "__dict__", {}).items()):
        yield f".{name}", value
    for kind in type(thing).__mro__:
        for name in getattr(kind, "__slots__", ()):
            if isinstance(name, str) and hasattr(thing, name):
                yield f".{name}", getattr(thing, name)
    for name in ("__self__", "__func__", "__wrapped__", "func", "args", "keywords", "__defaults__"):
        if isinstance(thing, types.FunctionType | types.MethodType) or type(thing).__name__ == "partial":
            value = getattr(thing, name, None)
            if value is not None:
                yield f".{name}", value
    for cell in getattr(thing, "__closure__", None) or ():
        try:
            yield ".closure", cell.cell_contents
        except ValueError:  # empty
            continue
