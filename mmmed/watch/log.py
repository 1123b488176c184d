"""The log of predictions that a hospital asked for, in a folder of its own.

    watch.key                  from which the pseudonyms are made; its owner's alone
    predictions-2026-12.jsonl  a line a prediction, by the month (UTC) in which it was made
    labels.jsonl               a line a label that came later
    models/<digest>.toml       the configuration of each model that was asked

A line is one JSON object with its version, written by one call at the end of the file, so that a process that is killed
leaves whole lines before it; half a line after a power cut is skipped and told. Nothing in it is a name: patients and
studies go by HMAC-SHA-256 under the folder's key. The folder stays at the site; no run reads it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mmmed.config import RunConfig, resolve, to_toml
from mmmed.deidentify.keys import SiteKey, spelled
from mmmed.errors import DataError
from mmmed.files import replacing

VERSION = 1
_KEY, _LABELS, _LOCK, _MODELS = "watch.key", "labels.jsonl", ".lock", "models"
_MONTH = re.compile(r"predictions-(\d{4}-\d{2})\.jsonl")
_WAIT = 10.0  # seconds for another process that writes


@dataclass(frozen=True)
class Lines:
    """What a log holds.

    Attributes:
        predictions, labels: the lines as they were written, in the order of time.
        unreadable: how many lines are no whole line of a log.
    """

    predictions: Sequence[Mapping[str, Any]]
    labels: Sequence[Mapping[str, Any]]
    unreadable: int


class WatchFolder:
    """The folder of a log."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def is_one(path: Path) -> bool:
        """Whether a folder holds a log."""
        return (path / _KEY).is_file()

    @classmethod
    def make(cls, path: Path) -> WatchFolder:
        """The folder, made if need be, as its owner's alone.

        Raises:
            DataError: it holds other things, or cannot be made.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            strange = not cls.is_one(path) and any(path.iterdir())
        except OSError as error:
            raise DataError(f"{path}: cannot be the folder of a log ({error.strerror or error})") from error
        if strange:
            raise DataError(f"{path}: holds other files and no log. Name a new folder, or one that a log has")
        folder = cls(path)
        assert folder.key
        return folder

    @classmethod
    def open(cls, path: Path) -> WatchFolder:
        """The folder of a log that is there. Raises `DataError` if there is none."""
        if not cls.is_one(path):
            raise DataError(
                f"{path}: holds no log of predictions. Make one with `mmmed predict ... --log {path}` or "
                f"`mmmed serve ... --log {path}`"
            )
        return cls(path)

    @cached_property
    def key(self) -> SiteKey:
        """The key of the pseudonyms. Raises `DataError` if it cannot be read."""
        return SiteKey.load_or_create(self.path / _KEY)

    def study(self, identifier: str) -> str:
        """The pseudonym of a study; of one without an id a random one, which no label will ever find."""
        return self.key.pseudonym("watch study", spelled(identifier)) if identifier else secrets.token_hex(10)

    def patient(self, identifier: str) -> str:
        """The pseudonym of a patient, "" of an unknown one."""
        return self.key.pseudonym("watch patient", spelled(identifier)) if identifier else ""

    def keep_model(self, digest: str, config: RunConfig) -> None:
        """Keep the configuration of a model, once."""
        file = self.path / _MODELS / f"{digest}.toml"
        if not file.is_file():
            file.parent.mkdir(mode=0o700, exist_ok=True)
            with self._alone(), replacing(file, mode=0o600) as partial:
                partial.write_text(to_toml(config), encoding="utf-8")

    def model(self, digest: str) -> RunConfig:
        """The configuration of a model. Raises `DataError` if it is gone."""
        file = self.path / _MODELS / f"{digest}.toml"
        if not file.is_file():
            raise DataError(f"{file}: is gone. Predict once more with that model and --log {self.path}")
        return resolve(file).config

    def add(self, lines: Sequence[Mapping[str, Any]], *, labels: bool = False) -> None:
        """Append lines, all of them or, if the machine fails, the first of them.

        Raises:
            DataError: another process has held the log for ten seconds.
            OSError: the disk is full, or the folder may not be written.
        """
        now = datetime.now(UTC)
        stamped = [{"v": VERSION, "at": now.isoformat(timespec="seconds"), **line} for line in lines]
        name = _LABELS if labels else f"predictions-{now:%Y-%m}.jsonl"
        text = "".join(json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n" for line in stamped)
        with self._alone():
            descriptor = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                size = os.fstat(descriptor).st_size
                torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
                content = memoryview((b"\n" if torn else b"") + text.encode())
                while content:
                    content = content[os.write(descriptor, content) :]
            finally:
                os.close(descriptor)

    def read(self) -> Lines:
        """All lines.

        Raises:
            DataError: a line is of a later version of the format.
        """
        found, unreadable = [], 0
        for name in (*self._months().values(), self.path / _LABELS):
            lines = []
            for line in _lines(name):
                if isinstance(line, dict) and isinstance(line.get("v"), int) and line["v"] > VERSION:
                    raise DataError(
                        f"{name}: was written by a later mmmed (format {line['v']}): update this one"
                    )
                if _whole(line, labels=name.name == _LABELS):
                    lines.append(line)
                else:
                    unreadable += 1
            found.append(lines)
        predictions = [line for part in found[:-1] for line in part]
        return Lines(sorted(predictions, key=lambda line: _time(line["at"])), found[-1], unreadable)

    def prune(self, before: str) -> list[str]:
        """Delete the months before `before` ("2026-06"), and labels of studies that are then in none. Their names."""
        with self._alone():
            gone = [month for month in self._months() if month < before]
            for month in gone:
                self._months()[month].unlink()
            there = {line["study"] for line in self.read().predictions}
            if gone:
                self._keep(self.path / _LABELS, lambda line: line["study"] in there)
        return gone

    def forget(self, *, studies: Iterable[str] = (), patients: Iterable[str] = ()) -> int:
        """Delete every line of these studies and patients (ids, as the hospital has them). How many predictions."""
        names = {self.study(one) for one in studies if one}
        owners = {self.patient(one) for one in patients if one}
        with self._alone():
            gone = [
                one for one in self.read().predictions if one["study"] in names or one["patient"] in owners
            ]
            names |= {one["study"] for one in gone}
            for file in (*self._months().values(), self.path / _LABELS):
                self._keep(file, lambda line: line["study"] not in names)
        return len(gone)

    def _keep(self, file: Path, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
        """Write a file anew with the lines that are wanted; what is no line of a log goes as well."""
        if file.is_file():
            own = [
                line for line in _lines(file) if _whole(line, labels=file.name == _LABELS) and wanted(line)
            ]
            with replacing(file, mode=0o600) as partial:
                partial.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in own))

    def _months(self) -> dict[str, Path]:
        files = {match[1]: path for path in self.path.iterdir() if (match := _MONTH.fullmatch(path.name))}
        return dict(sorted(files.items()))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            with FileLock(self.path / _LOCK, timeout=_WAIT):
                yield
        except Timeout as error:
            raise DataError(f"{self.path}: another process has held the log for {_WAIT:g} seconds") from error


def _lines(path: Path) -> Iterator[Any]:
    """The JSON value of each line, None of one that has none; nothing if there is no file."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield None


def _whole(line: Any, *, labels: bool) -> bool:
    """Whether a JSON value is a line as this module writes it."""
    if not isinstance(line, dict) or line.get("v") != VERSION or not isinstance(line.get("study"), str):
        return False
    if labels:
        return isinstance(line.get("label"), dict)
    parts = {"model": str, "patient": str, "values": dict, "inputs": dict, "missing": list, "groups": dict}
    return all(isinstance(line.get(name), kind) for name, kind in parts.items()) and _is_time(line.get("at"))


def _is_time(text: Any) -> bool:
    try:
        return _time(text).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
