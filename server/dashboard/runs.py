"""Runs as pages show them, read from run folders that another process may be writing to."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmmed.config import RunConfig, resolve
from mmmed.errors import MmmedError, RunError
from mmmed.tasks.base import Score
from privacy.audit import AuditResult
from privacy.errors import ReportError
from privacy.report import shown
from server.run_folder import finished_rounds

REPORTS = {"privacy.html": "privacy report", "epsilon.html": "spending, as version 0.1.0 drew it"}
AUDIT = Path("report") / "audit.json"


@dataclass(frozen=True)
class RunView:
    """What the dashboard shows of one run.

    Attributes:
        name: its folder's name.
        path: its folder.
        config: what it was started with.
        rounds: its finished rounds, as rounds.jsonl has them.
        complete: whether the final model is there.
    """

    name: str
    path: Path
    config: RunConfig
    rounds: list[dict[str, Any]]
    complete: bool

    @property
    def progress(self) -> str:
        """Finished rounds of all rounds, in words."""
        done = f"{len(self.rounds)} of {self.config.federation.rounds} rounds"
        return f"{done}, complete" if self.complete else done

    def course(self, phase: str, read: str, part: str) -> dict[str, list[tuple[int, float]]]:
        """Each site's values of ``read`` as (round, value); ``part`` of its record is "metrics" or "released"."""
        found: dict[str, list[tuple[int, float]]] = {}
        for record in self.rounds:
            for line in record[phase]:
                value = line.get(part, {}).get(read)
                if isinstance(value, int | float):
                    found.setdefault(line["site"], []).append((record["round"], float(value)))
        return found

    @property
    def epsilon(self) -> dict[str, list[tuple[int, float]]]:
        """Epsilon of everything charged, by site against round, as the sites stated it."""
        return self.course("train", "privacy.epsilon", "released")

    @property
    def score(self) -> Score:
        """The task's main score."""
        return self.config.task.target().score

    @property
    def scored(self) -> dict[str, list[tuple[int, float]]]:
        """The main score on held-out patients, by site against round, of the sites that show it."""
        return self.course("evaluate", self.score.name, "metrics")

    @property
    def worst_epsilon(self) -> float:
        """The largest of the sites' newest statements; NaN before the first."""
        return max((course[-1][1] for course in self.epsilon.values()), default=math.nan)

    @property
    def refusals(self) -> list[tuple[int, str, str, str]]:
        """Round, phase, site and code of every answer that was not used."""
        return [
            (record["round"], phase, line["site"], line["refused"])
            for record in self.rounds
            for phase in ("train", "evaluate")
            for line in record[phase]
            if "refused" in line
        ]

    @property
    def sites(self) -> list[tuple[str, str, str, str, str]]:
        """Per site: name, updates used, epsilon of target, newest main score, megabytes sent by it."""
        used, sent = Counter[str](), Counter[str]()
        for record in self.rounds:
            for phase in ("train", "evaluate"):
                for line in record[phase]:
                    used[line["site"]] += phase == "train" and "refused" not in line
                    sent[line["site"]] += line.get("bytes_up", 0)
        epsilon, scored = self.epsilon, self.scored
        target = self.config.privacy.target_epsilon
        return [
            (
                site,
                f"{used[site]} of {len(self.rounds)}",
                f"{shown(epsilon[site][-1][1])} of {target:g}" if site in epsilon else "-",
                f"{scored[site][-1][1]:.3f}" if site in scored else "not shown",
                f"{sent[site] / 1e6:.1f}",
            )
            for site in sorted(used)
        ]

    @property
    def audit(self) -> AuditResult | None:
        """The result of `mmmed privacy audit`, if one was kept with the run.

        Raises:
            ReportError: what was kept is not one, or was edited.
        """
        try:
            return AuditResult.from_json(json.loads((self.path / AUDIT).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ReportError(f"{AUDIT}: cannot be read: {error}.") from error

    @property
    def reports(self) -> list[str]:
        """File names of the run's reports that exist."""
        return [name for name in REPORTS if (self.path / "report" / name).is_file()]


def read_run(path: Path) -> RunView:
    """One run folder.

    Raises:
        RunError: it holds no run.
    """
    if not (path / "config.toml").is_file():
        raise RunError(f"{path}: holds no run (config.toml is missing)")
    config = resolve(path / "config.toml").config
    return RunView(path.name, path, config, finished_rounds(path), (path / "model").is_dir())


def read_runs(root: Path) -> list[RunView]:
    """All runs below ``root``, newest first, or the run whose folder ``root`` is. Other folders are left out."""
    if (root / "config.toml").is_file():
        return [read_run(root)]
    found = []
    for path in sorted(root.iterdir(), reverse=True) if root.is_dir() else ():
        try:
            found.append(read_run(path))
        except MmmedError:
            continue
    return found
