"""Runs of a deployed federation: each has a run folder, and one Flower run for each time it was started or resumed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mmmed.config import RunConfig, resolve
from mmmed.config.sources import to_json
from mmmed.errors import DeployError
from mmmed.federation.protocol import run_name
from mmmed.files import write_atomic
from server.app_config import RUN_CONFIG, RUN_FOLDER
from server.deployment.bundle import app_bundle
from server.deployment.control import Control, FlowerRun
from server.deployment.folder import Folder
from server.run import first_model
from server.run_folder import RunFolder, finished_rounds, run_id_at

_ATTEMPTS = "attempts.json"


@dataclass(frozen=True)
class RunState:
    """How far a run has come.

    Attributes:
        name: its run folder's name.
        flower: the newest Flower run of it, or None if the SuperLink knows none.
        done: finished rounds.
        rounds: rounds in all.
        short: the run's name at the sites, where it may wait for approval.
    """

    name: str
    flower: FlowerRun | None
    done: int
    rounds: int
    short: str

    @property
    def status(self) -> str:
        """``running``, ``finished:completed``, ...; ``unknown`` if the SuperLink has no record of it."""
        return self.flower.status if self.flower else "unknown"


def begin(folder: Folder, config: RunConfig) -> str:
    """Start a run; returns its name.

    Raises:
        DeployError: the SuperLink does not answer or refuses.
        ModelError: the model cannot be built here; nothing has been written then.
    """
    with Control(folder) as control:
        control.nodes()  # before a run folder is made: is there a SuperLink at all, and can the model be built?
        first_model(config)
        config, name = as_sent(config), _free_name(folder)
        RunFolder.create(folder.runs / name, config).close()
        _submit(folder, control, name, config)
    return name


def as_sent(config: RunConfig) -> RunConfig:
    """The configuration as the server's process, which works in another folder, can use it."""
    if not config.model.start:
        return config
    own = config.model.model_copy(update={"start": str(Path(config.model.start).absolute())})
    return config.model_copy(update={"model": own})


def resume(folder: Folder, name: str) -> None:
    """Continue a run after its last finished round.

    Raises:
        DeployError: no such run, or it is running.
    """
    with Control(folder) as control:
        if (state := _state(folder, name, control.runs())).flower is not None and state.flower.active:
            raise DeployError(f"run {name} is {state.status}. Stop it first: mmmed server stop {name}")
        with RunFolder.open(folder.runs / name) as run:
            config = run.config
        _submit(folder, control, name, config)


def stop(folder: Folder, name: str) -> None:
    """Stop a run; `resume` continues it.

    Raises:
        DeployError: no such run, or it is not running.
    """
    with Control(folder) as control:
        state = _state(folder, name, control.runs())
        if state.flower is None or not state.flower.active:
            raise DeployError(f"run {name} is not running ({state.status})")
        control.stop(state.flower.id)


def states(folder: Folder, control: Control) -> list[RunState]:
    """The states of all runs, oldest first."""
    known = control.runs()
    return [_state(folder, path.name, known) for path in sorted(folder.runs.iterdir()) if path.is_dir()]


def newest(folder: Folder) -> str:
    """The name of the newest run.

    Raises:
        DeployError: there is none yet.
    """
    names = sorted(path.name for path in folder.runs.iterdir() if path.is_dir())
    if not names:
        raise DeployError("no run was started yet. Start one with `mmmed server run CONFIG`")
    return names[-1]


def attempts(folder: Folder, name: str) -> list[int]:
    """Flower's ids of a run's attempts, oldest first.

    Raises:
        DeployError: no such run.
    """
    path = folder.runs / name
    if "/" in name or not (path / "config.toml").is_file():
        raise DeployError(f"no run {name!r}. `mmmed server status` lists them")
    try:
        return [int(number) for number in json.loads((path / _ATTEMPTS).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def _submit(folder: Folder, control: Control, name: str, config: RunConfig) -> None:
    number = control.start(app_bundle(), {RUN_CONFIG: to_json(config), RUN_FOLDER: name})
    write_atomic(folder.runs / name / _ATTEMPTS, json.dumps([*attempts(folder, name), number]))


def _state(folder: Folder, name: str, known: dict[int, FlowerRun]) -> RunState:
    numbers = attempts(folder, name)
    path = folder.runs / name
    config = resolve(path / "config.toml").config
    return RunState(
        name=name,
        flower=known.get(numbers[-1]) if numbers else None,
        done=len(finished_rounds(path)),
        rounds=config.federation.rounds,
        short=run_name(run_id_at(path), to_json(config)),
    )


def _free_name(folder: Folder) -> str:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    names = (stamp if not i else f"{stamp}-{i}" for i in range(1000))
    return next(name for name in names if not (folder.runs / name).exists())
