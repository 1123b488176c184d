"""What a run folder says of the run that trained its model: its name, and how private it was."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmmed.config import RunConfig

_REPORT = Path("report") / "privacy.json"


@dataclass(frozen=True)
class RunFacts:
    """What is known of a model's run.

    Attributes:
        run: its id, "" if the folder holds a model alone.
        epsilon: of the run's privacy report, at `delta`; None if there is no report, or it states none.
        delta: of the report.
        private: whether the run was configured to be private.
        condition: on what epsilon relies besides the sites themselves, in sentences; "" for nothing.
    """

    run: str
    epsilon: float | None
    delta: float | None
    private: bool
    condition: str = ""

    @property
    def in_words(self) -> str:
        """A sentence."""
        which = f"Run {self.run}" if self.run else "A model folder without its run"
        if not self.private:
            return f"{which}, trained without differential privacy."
        if self.epsilon is None:
            return f"{which}, configured as private; its folder holds no privacy report that states what was spent."
        spent = f"epsilon {at_most(self.epsilon)} at delta {self.delta:g} a patient"
        return f"{which}, trained with differential privacy: {spent}. {self.condition}".strip()


def at_most(epsilon: float) -> str:
    """An epsilon to three places, never below what it is."""
    if not math.isfinite(epsilon):
        return "infinity"
    return f"{math.ceil(epsilon * 1000) / 1000:.3f}".rstrip("0").rstrip(".")


def read_report(folder: Path) -> dict[str, Any]:
    """The privacy report of a run folder; empty if there is none that can be read."""
    try:
        report = json.loads((folder / _REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) else {}


def run_facts(folder: Path | None, config: RunConfig) -> RunFacts:
    """What `folder`, a run folder or a model folder, says; None where the model was not read from one."""
    report = read_report(folder) if folder is not None else {}
    run, summary = (report.get(part) for part in ("run", "summary"))
    name = run.get("id") if isinstance(run, dict) else None
    found = [summary.get(key) if isinstance(summary, dict) else None for key in ("epsilon", "delta")]
    epsilon, delta = (one if isinstance(one, int | float) else None for one in found)
    if delta is None:
        epsilon = None
    condition = summary.get("condition") if isinstance(summary, dict) else None
    said = condition if isinstance(condition, str) else ""
    return RunFacts(str(name or ""), epsilon, delta, config.privacy.enabled, said)
