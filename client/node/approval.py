"""Approval of runs by a person at the site.

With ``approval = true`` in site.toml a run that is new is held: the site answers ``awaiting-approval``, and the
coordinator asks again. What is approved is one run with one configuration: should either change, it is a new run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from client.node.log import SiteLog
from mmmed.config import RunConfig, differences, from_flat
from mmmed.config.sources import flat_from_json, to_flat
from mmmed.errors import ConfigError, DeployError
from mmmed.federation.protocol import check_run, run_name
from mmmed.files import write_atomic
from mmmed.modalities import MODALITIES
from mmmed.models.names import policy_name
from mmmed.text import shown

Taken = Literal["approved", "denied"]
Decision = Literal["waiting"] | Taken

# A coordinator that makes up runs without end does not fill the disk.
_MOST_WAITING = 200
_MOST_BYTES = 8_000_000  # of the configurations of all that wait


@dataclass(frozen=True)
class SeenRun:
    """A run that asked this site, and the decision about it.

    Attributes:
        run_id: the run's id, as the coordinator gives it.
        config: JSON of its configuration's flat form, as it came.
        first: when it first asked, ISO 8601.
        decision: what a person decided.
    """

    run_id: str
    config: str
    first: str
    decision: Decision = "waiting"

    @property
    def name(self) -> str:
        """A short name for approval: 12 hexadecimal digits of a hash of run id and configuration."""
        return run_name(self.run_id, self.config)

    def in_words(self) -> list[str]:
        """What a person approves, a line each: what is read, predicted, trained, released and spent."""
        try:
            config = from_flat(flat_from_json(self.config))
        except ConfigError as error:
            return [f"not a valid configuration: {shown(error, 1000)}"]
        return [f"{what:9} {shown(words, 500)}" for what, words in _words(config)]

    def settings(self) -> list[str]:
        """Lines ``key = value`` of all settings; those that differ from the defaults begin with an asterisk."""
        try:
            config = from_flat(flat_from_json(self.config))
        except ConfigError:
            return []
        changed = differences(RunConfig(), config)
        return [
            f"{'*' if key in changed else ' '} {shown(key)} = {shown(value)}"
            for key, value in to_flat(config).items()
        ]


def _words(config: RunConfig) -> Iterator[tuple[str, str]]:
    """What a run does, by subject, in words that need no knowledge of the keys."""
    data, privacy, federation = config.data, config.privacy, config.federation
    read = [f"{name} ({', '.join(MODALITIES[name].columns(data))})" for name in data.modalities]
    where = f"; only rows where {dict(data.where)}" if data.where else ""
    yield "reads", "the columns of " + ", ".join(read) + where
    yield "predicts", f"{config.task.kind} of " + ", ".join(config.task.columns.values())
    yield "trains", f"{policy_name(config)}, {config.model.trainable}, in {federation.rounds} rounds"
    yield "releases", _RELEASED[federation.release]
    if not privacy.enabled:
        yield "spends", "WITHOUT PRIVACY: what is released may tell of single patients"
        return
    yield "", _RESULTS[privacy.metrics]
    results = (
        f", and {_exactly(privacy.metrics_epsilon)} of those held out" if privacy.metrics == "private" else ""
    )
    yield (
        "spends",
        f"epsilon {_exactly(privacy.target_epsilon)} at delta {_exactly(privacy.delta)} of each patient who is "
        f"trained on{results}",
    )


def _exactly(value: float) -> str:
    """All digits: a person must not approve more than is shown."""
    return repr(value).removesuffix(".0")


_RELEASED = {
    "rounds": "after each round the change of the model, with this site's noise",
    "steps": "in each round the clipped sum over some of its patients, with this site's noise",
    "secure-steps": "in each round a masked sum with a share of the noise: the server sees the sum over sites alone",
}
_RESULTS = {
    "none": "no results of patients held out",
    "private": "results of patients held out once, as counts with noise",
    "rounded": "results of patients held out once, rounded: NOT PRIVATE",
}


class RunApprovals:
    """The runs that a site has seen, one file each in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def decision(self, run_id: str, config: str) -> Decision:
        """The decision about a run; a new run is stored as waiting for one.

        Raises:
            ConfigError: the run's id is not one, or the configuration is too long for one.
        """
        check_run(run_id, config)
        run = SeenRun(run_id, config, datetime.now(UTC).isoformat(timespec="seconds"))
        seen = self.all()
        for known in seen:
            if known.name == run.name:
                return known.decision
        waiting = [len(known.config) for known in seen if known.decision == "waiting"]
        if len(waiting) < _MOST_WAITING and sum(waiting) + len(config) <= _MOST_BYTES:
            self._write(run)
        return "waiting"

    def decide(self, name: str, decision: Taken, log: SiteLog, way: str) -> SeenRun:
        """Store a decision about the run that has this name, or whose id begins with it; the log has it first.

        Args:
            name: the run.
            decision: what was decided.
            log: the site's.
            way: how a person decided, for the log.

        Raises:
            DeployError: no run, or several; or the log cannot be written.
        """
        decided = replace(self.find(name), decision=decision)
        log.append(decision, run=decided.run_id, name=decided.name, way=way)
        self._write(decided)
        return decided

    def find(self, name: str) -> SeenRun:
        """The run that has this name, or whose id begins with it.

        Raises:
            DeployError: no run, or several.
        """
        found = [run for run in self.all() if run.name == name or run.run_id.startswith(name)]
        if len(found) != 1:
            what = "several runs have" if found else "no run has"
            raise DeployError(f"{what} the name {shown(name)!r}. `mmmed site runs` lists them")
        return found[0]

    def all(self) -> list[SeenRun]:
        """All runs seen, oldest first."""
        runs = []
        for path in self._folder.glob("*.json"):
            try:
                runs.append(SeenRun(**json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError, TypeError) as error:
                raise DeployError(f"{path}: damaged. Delete it; the run will ask again") from error
        return sorted(runs, key=lambda run: (run.first, run.name))

    def _write(self, run: SeenRun) -> None:
        write_atomic(self._folder / f"{run.name}.json", json.dumps(asdict(run)))
