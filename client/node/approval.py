"""Approval of runs by a person at the site.

With ``approval = true`` in site.toml a run that is new is held: the site answers ``awaiting-approval``, and the
coordinator asks again. What is approved is one run with one configuration: should either change, it is a new run.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from mmmed.config import RunConfig, differences, from_flat
from mmmed.config.sources import flat_from_json
from mmmed.errors import ConfigError, DeployError
from mmmed.federation.protocol import check_run, run_name
from mmmed.files import write_atomic

Decision = Literal["waiting", "approved", "denied"]

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

    def changes(self) -> list[str]:
        """Lines ``key = value`` of the settings that differ from the defaults."""
        try:
            changed = differences(RunConfig(), from_flat(flat_from_json(self.config)))
        except ConfigError as error:
            return [f"not a valid configuration: {error}"]
        return [f"{key} = {value}" for key, (_, value) in changed.items() if value is not None]


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

    def decide(self, name: str, decision: Decision) -> SeenRun:
        """Store a decision about the run that has this name, or whose id begins with it.

        Raises:
            DeployError: no run, or several.
        """
        found = [run for run in self.all() if run.name == name or run.run_id.startswith(name)]
        if len(found) != 1:
            what = "several runs have" if found else "no run has"
            raise DeployError(f"{what} the name {name!r}. `mmmed site runs` lists them")
        decided = replace(found[0], decision=decision)
        self._write(decided)
        return decided

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
