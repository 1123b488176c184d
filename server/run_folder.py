"""The folder of one run: what was agreed, where it ran, what happened, and the point from which it continues.

    config.toml         the resolved configuration
    environment.json    run id, versions, platform, commit
    cost.json           what a simulation cost, see `simulations.cost`
    frozen.json         digests of what is not trained: encoders, tokenizer
    rounds.jsonl        one line a finished round
    checkpoints/        global model and strategy state after each round (see `server.checkpoint`)
    tensorboard/        curves of the released metrics
    model/              the final model
    report/             the privacy report

A process that owns the folder holds an exclusive lock on ``.lock``, and ``.process`` says which. Every file
appears whole or not at all, except ``rounds.jsonl``, whose torn last line is trimmed when the folder is opened again.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np

from mmmed.config import RunConfig, differences, resolve, to_toml
from mmmed.errors import RunError
from mmmed.federation.protocol import Refused, check_histograms, scores_of, stated_by
from mmmed.files import exclusive, write_atomic
from mmmed.text import shown

_PACKAGES = ("mmmed", "torch", "flwr", "opacus", "dp-accounting", "monai", "transformers", "numpy")
CHECKPOINTS = "checkpoints"
_OWNER = ".process"

log = logging.getLogger(__name__)


class RunFolder:
    """An open run folder, locked by this process until `close`. Use `create`, `open` or `create_or_open`."""

    def __init__(self, path: Path, config: RunConfig, run_id: str, lock: ExitStack) -> None:
        """
        Args:
            path: the folder.
            config: the resolved configuration.
            run_id: name of the run, which no other run has.
            lock: holds the folder's lock; `close` gives it up.
        """
        self.path = path
        self.config = config
        self.run_id = run_id
        self._lock = lock
        self._told: set[int] = set()  # lines of which it was said that something is left out

    @classmethod
    def create(
        cls, path: Path, config: RunConfig, beside: Mapping[str, bytes] = MappingProxyType({})
    ) -> RunFolder:
        """Start a run in a new or empty folder.

        Args:
            path: the folder.
            config: the run's.
            beside: name and content of files without which it would go on as another run; they are there whenever
                the folder holds one.

        Raises:
            RunError: the folder is in use, already holds a run, or holds other files.
        """
        return _locked(Path(path), lambda lock: cls._create(Path(path), config, beside, lock))

    @classmethod
    def open(cls, path: Path, config: RunConfig | None = None) -> RunFolder:
        """Continue the run that the folder holds.

        Args:
            path: the run folder.
            config: what the caller wants to run; it must equal what the folder holds. None takes the folder's.

        Raises:
            RunError: the folder holds no run, is in use, or was started with another configuration.
        """
        path = Path(path)
        if not (path / "config.toml").is_file():
            raise RunError(
                f"{path}: holds no run (config.toml is missing). Expected the folder of an earlier run"
            )
        return _locked(path, lambda lock: cls._open(path, config, lock))

    @classmethod
    def create_or_open(
        cls, path: Path, config: RunConfig, beside: Mapping[str, bytes] = MappingProxyType({})
    ) -> RunFolder:
        """`open` if the folder holds a run, else `create`."""
        if (Path(path) / "config.toml").is_file():
            return cls.open(path, config)
        return cls.create(path, config, beside)

    @classmethod
    def _create(
        cls, path: Path, config: RunConfig, beside: Mapping[str, bytes], lock: ExitStack
    ) -> RunFolder:
        if (path / "config.toml").exists():
            raise RunError(f"{path}: already holds a run. Resume it, or choose another folder")
        # a kill during creation leaves some of these, or one of them in part
        written = ("environment.json", *beside, "config.toml")
        own = {".lock", _OWNER, *written, *(f".part-{name}" for name in written)}
        foreign = sorted({file.name for file in path.iterdir()} - own)
        if foreign:
            raise RunError(f"{path}: not empty (found {foreign[0]}). Choose a new or empty folder")
        run_id = uuid.uuid4().hex
        write_atomic(path / "environment.json", json.dumps(_environment(run_id), indent=2) + "\n")
        for name, content in beside.items():
            write_atomic(path / name, content)
        write_atomic(path / "config.toml", to_toml(config))  # last: it makes the folder a run folder
        return cls(path, config, run_id, lock)

    @classmethod
    def _open(cls, path: Path, config: RunConfig | None, lock: ExitStack) -> RunFolder:
        held = resolve(path / "config.toml").config
        if config is not None and config != held:
            changed = differences(held, config)
            changes = [f"{key} was {old!r}, now {new!r}" for key, (old, new) in changed.items()]
            raise RunError(
                f"{path}: was started with another configuration: {'; '.join(changes)}. "
                "Resume with the same configuration, or start a new run in another folder"
            )
        folder = cls(path, held, run_id_at(path), lock)
        folder._trim_torn_line()
        return folder

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder up to other processes."""
        self._lock.close()

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def report(self) -> Path:
        return self.path / "report"

    def append_round(self, record: dict[str, Any]) -> None:
        """Add one line to rounds.jsonl; it is on the disk when this returns."""
        with (self.path / "rounds.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rounds(self) -> list[dict[str, Any]]:
        """The finished rounds, in order.

        Raises:
            RunError: a line is not a round (its number is named).
        """
        records = []
        for number, line in enumerate(self._log_bytes().splitlines(), start=1):
            try:
                record = json.loads(line)
                record["round"] = int(record["round"])
                left_out = _leave_out(record)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise RunError(
                    f"{self.path / 'rounds.jsonl'}: line {number} is not a round. Restore it"
                ) from error
            if left_out and number not in self._told:
                self._told.add(number)
                log.warning(
                    "%s: line %d: left out what is not of the form that was agreed, of %s",
                    *(self.path / "rounds.jsonl", number, ", ".join(left_out)),
                )
            records.append(record)
        return records

    def forget_rounds_after(self, last: int) -> None:
        """Drop the lines of rounds beyond ``last`` (their checkpoint did not survive)."""
        kept = [json.dumps(record) + "\n" for record in self.rounds() if record["round"] <= last]
        if len(kept) != len(self.rounds()):
            write_atomic(self.path / "rounds.jsonl", "".join(kept))

    def _log_bytes(self) -> bytes:
        path = self.path / "rounds.jsonl"
        return path.read_bytes() if path.exists() else b""

    def _trim_torn_line(self) -> None:
        written = self._log_bytes()
        whole = written.rfind(b"\n") + 1
        if whole != len(written):
            os.truncate(self.path / "rounds.jsonl", whole)


def run_id_at(path: Path) -> str:
    """The id of the run in a folder.

    Raises:
        RunError: the folder does not say.
    """
    try:
        return str(json.loads((path / "environment.json").read_text(encoding="utf-8"))["run_id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path / 'environment.json'}: missing or damaged, so the run has no id") from error


def finished_rounds(path: Path) -> list[dict[str, Any]]:
    """The finished rounds in a run folder that another process may be writing to."""
    try:
        lines = (path / "rounds.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    except OSError:
        return []
    records = [json.loads(line) for line in lines]
    for record in records:
        _leave_out(record)
    return records


def _leave_out(record: Mapping[str, Any]) -> list[str]:
    """Drop from a round what no site would be taken at its word for today; returns the names of those sites.

    Earlier versions kept what sites stated as it came, and one of them could end what reads it.
    """
    sites = []
    for phase in ("train", "evaluate"):
        for line in record.get(phase, ()):
            for part, read in (("released", stated_by), ("metrics", scores_of), ("tables", _tables)):
                try:
                    if part in line:
                        line[part] = read(line[part])
                except (Refused, ValueError, TypeError, AttributeError):
                    del line[part]
                    if part == "released":
                        line[part] = {}  # it answered, and nothing that it stated holds
                    sites.append(shown(str(line["site"])))
    return sites


def _tables(value: Any) -> Any:
    check_histograms(np.asarray(value, dtype=np.float64))
    return value


def megabytes(rounds: Iterable[Mapping[str, Any]], way: str) -> str:
    """Size of all tensors that went to the sites (``way`` "down") or came from them ("up"), as text in MB."""
    lines = (line for record in rounds for phase in ("train", "evaluate") for line in record[phase])
    return f"{sum(line[f'bytes_{way}'] for line in lines) / 1e6:.1f} MB"


def _locked(path: Path, build: Callable[[ExitStack], RunFolder]) -> RunFolder:
    """Build a RunFolder under its lock, which goes with it; give the lock back if that fails."""
    owner = path / _OWNER

    def refusal() -> RunError:
        process = owner.read_text(encoding="ascii").strip() if owner.is_file() else ""
        return RunError(
            f"{path}: in use by process {process or 'unknown'}. Wait for it to end, or choose another folder"
        )

    lock = ExitStack()
    try:
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock.enter_context(exclusive(path / ".lock", refusal))
            owner.write_text(f"{os.getpid()}\n", encoding="ascii")
        except OSError as error:
            raise RunError(f"{path}: cannot be used as a run folder ({error.strerror})") from error
        return build(lock)
    except BaseException:
        lock.close()
        raise


def _environment(run_id: str) -> dict[str, Any]:
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "run_id": run_id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "versions": versions,
        "commit": _commit(),
        "command": sys.argv,
    }


def _commit() -> str | None:
    """The source's git commit, with ``-dirty`` if the tree differs from it; None outside a checkout."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():  # an installed package inside somebody else's repository
        return None
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
