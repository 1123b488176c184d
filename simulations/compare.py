"""`mmmed simulate compare`: runs side by side, by their settings, with what seeds say of the differences.

Runs that differ in nothing but `training.seed` are one *setting*. Where patients are held out by a hash of the seed,
each seed splits the same patients anew, so that seeds share training patients and are no independent repetitions. Then
the variance of a mean is taken (1 / n + test / train) of that of the seeds, not 1 / n (Nadeau and Bengio 2003, Machine
Learning 52), for intervals and tests. Where a column gives the folds, 1 / n is right for what it says: other
initialisations on the same patients.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from mmmed.config import RunConfig, resolve, to_flat
from mmmed.errors import RunError
from mmmed.tasks.base import Score
from server.run_folder import finished_rounds
from simulations.scenarios import PREFIX, Scenario
from simulations.scenarios.table import kept_scenario
from simulations.sweep import RUNS, TABLE, cost
from simulations.trial import EVALUATION

_SEED = "training.seed"
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, as its folder has it."""

    folder: Path
    config: RunConfig
    scenario: Scenario | None
    evaluation: Mapping[str, Any]
    epsilon: float | None  # the largest that a site was charged; None without privacy

    @property
    def seed(self) -> int:
        return self.config.training.seed

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings but the seed, by dotted key; those of the scenario after "scenario."."""
        flat: dict[str, Any] = {key: value for key, value in to_flat(self.config).items() if key != _SEED}
        if self.scenario is not None:
            flat |= {
                f"{PREFIX}{key}": _text(value) for key, value in self.scenario.model_dump(mode="json").items()
            }
        return flat

    @cached_property
    def score(self) -> Score:
        return self.config.task.target().score

    @cached_property
    def values(self) -> dict[str, float]:
        """The run's scores by title, and that of its worst site; a run of an earlier version may have fewer."""
        main = self.evaluation[self.score.name]
        sites = [value for value in main["sites"].values() if value is not None]
        worst = min if self.score.higher else max
        found = {
            f"{self.score.title} within sites": main["within_site"]["value"],
            f"{self.score.title} pooled": main["pooled"]["value"],
            f"{self.score.title} of the worst site": worst(sites, default=None),
        }
        found |= {
            name: one["pooled"]["value"] for name, one in self.evaluation.items() if name != self.score.name
        }
        return {name: math.nan if value is None else float(value) for name, value in found.items()}

    @cached_property
    def curve(self) -> list[tuple[int, float]]:
        """(round, mean of the sites' main score), of the rounds in which sites told it."""
        points = []
        for record in finished_rounds(self.folder):
            told = [line.get("metrics", {}).get(self.score.name) for line in record["evaluate"]]
            values = [value for value in told if value is not None]
            if values:
                points.append((int(record["round"]), sum(values) / len(values)))
        return points


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval (NaN with one seed)."""

    mean: float
    low: float
    high: float
    values: tuple[float, ...]

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "-"
        return f"{self.mean:.3f}" + ("" if math.isnan(self.low) else f" [{self.low:.3f}, {self.high:.3f}]")


@dataclass(frozen=True)
class Difference:
    """A setting's score less the first one's, over the seeds that both have."""

    estimate: Estimate
    p: float  # two-sided, NaN with fewer than two seeds
    corrected: float  # by Holm, over the settings that are compared


@dataclass(frozen=True)
class Setting:
    """The runs of one setting, by seed."""

    number: int
    differs: Mapping[str, Any]  # the keys in which the settings that are compared differ
    runs: Mapping[int, FinishedRun]

    @property
    def name(self) -> str:
        """Its keys without their sections, and their values."""
        shown = {key: value for key, value in self.differs.items() if value is not None}
        parts = (f"{short(key)} {value}" for key, value in shown.items())
        return ", ".join(parts) or "as configured"

    def estimate(self, title: str) -> Estimate:
        """One of `FinishedRun.values`, over seeds."""
        runs = list(self.runs.values())
        return estimate([run.values.get(title, math.nan) for run in runs], _overlap(runs[0]))

    def curve(self) -> list[tuple[int, float]]:
        """The mean of the runs' curves, of rounds that all have."""
        curves = [dict(run.curve) for run in self.runs.values()]
        shared = sorted(set.intersection(*(set(one) for one in curves)))
        return [(number, float(np.mean([one[number] for one in curves]))) for number in shared]

    def costs(self) -> dict[str, float]:
        """Means of what a run cost: seconds, MB up, MB down, and the largest epsilon (NaN without privacy)."""
        runs = list(self.runs.values())
        found = [cost(run.folder) for run in runs]
        epsilons = [math.nan if run.epsilon is None else run.epsilon for run in runs]
        return {
            "seconds": float(np.mean([one["seconds"] for one in found])),
            "MB up": float(np.mean([one["bytes_up"] for one in found])) / 1e6,
            "MB down": float(np.mean([one["bytes_down"] for one in found])) / 1e6,
            "epsilon": float(np.mean(epsilons)),
        }


def short(key: str) -> str:
    """A dotted key as a reader needs it."""
    return "scenario" if key == f"{PREFIX}name" else key.rpartition(".")[2]


def read_runs(paths: Sequence[Path]) -> list[FinishedRun]:
    """The finished runs of run folders and of sweeps, in order.

    Raises:
        RunError: a folder is neither, or its run has not finished; or a sweep has no finished run.
    """
    runs = []
    for path in paths:
        if (path / TABLE).is_file() or (path / RUNS).is_dir():
            found = sorted((path / RUNS).glob(f"*/run/{EVALUATION}"))
            if not found:
                raise RunError(f"{path}: the sweep has no finished run yet")
            runs += [_read(one.parent) for one in found]
        else:
            runs.append(_read(path))
    return runs


def _read(folder: Path) -> FinishedRun:
    if not (folder / "config.toml").is_file():
        raise RunError(
            f"{folder}: holds no run (config.toml is missing). Expected a folder of `mmmed simulate` or of a sweep"
        )
    if not (folder / EVALUATION).is_file():
        raise RunError(f"{folder}: the run has not finished. Go on with it: mmmed simulate --resume {folder}")
    config = resolve(folder / "config.toml").config
    try:
        evaluation = json.loads((folder / EVALUATION).read_text(encoding="utf-8"))
        report = folder / "report" / "privacy.json"
        sites = json.loads(report.read_text(encoding="utf-8"))["sites"] if report.is_file() else []
        epsilon = max((float(site["epsilon_charged"]) for site in sites), default=None)
        found = FinishedRun(folder, config, kept_scenario(folder), evaluation, epsilon)
        _ = found.values  # every score can be read
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder}: its {EVALUATION} or report is damaged: {error!r}") from error
    return found


def check_comparable(runs: Sequence[FinishedRun]) -> None:
    """Raise RunError unless the runs answer the same question about the same held-out patients, seed by seed."""
    first = runs[0]
    for run in runs[1:]:
        for key, (one, other) in _question(first, run).items():
            raise RunError(
                f"{first.folder} and {run.folder} cannot be compared: {key} is {one!r} in the first and {other!r} in "
                "the second, so that they are scored on another task or on other patients"
            )


def _question(first: FinishedRun, run: FinishedRun) -> dict[str, tuple[Any, Any]]:
    """What decides which patients are scored on what, where two runs differ in it: by key, the two values."""

    def asked(one: FinishedRun) -> dict[str, Any]:
        data = one.config.data
        keys = (
            "source",
            "table",
            "patient",
            "where",
            "drop_shared_patients",
            "fold",
            "test_fold",
            "test_fraction",
        )
        return {
            "task": one.config.task.model_dump(mode="json"),
            **{f"data.{key}": _text(getattr(data, key)) for key in keys},
            "scenario.same_labels": bool(one.scenario and one.scenario.same_labels),
        }

    before, after = asked(first), asked(run)
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def settings_of(runs: Sequence[FinishedRun]) -> list[Setting]:
    """The runs by setting, in order of their first run.

    Raises:
        RunError: a setting has a seed twice.
    """
    groups: dict[tuple[tuple[str, str], ...], dict[int, FinishedRun]] = {}
    for run in runs:
        group = groups.setdefault(tuple(sorted((k, _text(v)) for k, v in run.settings.items())), {})
        if run.seed in group:
            raise RunError(
                f"{group[run.seed].folder} and {run.folder} are the same settings and the same seed {run.seed}: "
                "name one of them"
            )
        group[run.seed] = run
    firsts = [next(iter(group.values())).settings for group in groups.values()]
    keys = sorted((key for one in firsts for key in one), key=lambda key: not key.startswith(PREFIX))
    differs = [key for key in dict.fromkeys(keys) if len({_text(one.get(key)) for one in firsts}) > 1]
    if (
        f"{PREFIX}name" in differs
    ):  # it says what the scenario's other keys say, unless one of them varies alone
        differs = [key for key in differs if key == f"{PREFIX}name" or not _follows(key, firsts)]
    return [
        Setting(number, {key: one.get(key) for key in differs}, dict(sorted(group.items())))
        for number, (one, group) in enumerate(zip(firsts, groups.values(), strict=True), start=1)
    ]


def _follows(key: str, settings: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a scenario's key is the same wherever the scenario's name is."""
    by_name: dict[Any, set[str]] = {}
    for one in settings:
        by_name.setdefault(one.get(f"{PREFIX}name"), set()).add(_text(one.get(key)))
    return key.startswith(PREFIX) and all(len(values) == 1 for values in by_name.values())


def estimate(values: Sequence[float], overlap: float) -> Estimate:
    """The mean of values, one a seed, and its 95 % interval by Student's t.

    Args:
        values: n of them.
        overlap: held-out patients / training patients, where each seed splits the same patients anew; else 0.
    """
    mean, error = _mean_and_error(values, overlap)
    reach = error * stats.t.ppf((1 + _CONFIDENCE) / 2, len(values) - 1) if len(values) > 1 else math.nan
    return Estimate(mean, mean - reach, mean + reach, tuple(values))


def differences(settings: Sequence[Setting], title: str) -> list[Difference]:
    """Each setting but the first against the first: a paired t-test over the seeds that both have."""
    first, found = settings[0], []
    for other in settings[1:]:
        seeds = sorted(set(first.runs) & set(other.runs))
        pairs = [(other.runs[seed].values, first.runs[seed].values) for seed in seeds]
        values = [one.get(title, math.nan) - before.get(title, math.nan) for one, before in pairs]
        overlap = _overlap(next(iter(first.runs.values())))
        found.append((estimate(values, overlap), paired_p(values, overlap)))
    return [
        Difference(one, p, corrected)
        for (one, p), corrected in zip(found, holm([p for _, p in found]), strict=True)
    ]


def paired_p(differences: Sequence[float], overlap: float) -> float:
    """The two-sided p-value of the mean of paired differences being 0; NaN with fewer than two, or without spread."""
    mean, error = _mean_and_error(differences, overlap)
    if len(differences) < 2 or not error > 0:
        return math.nan
    return float(2 * stats.t.sf(abs(mean) / error, len(differences) - 1))


def holm(ps: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979, Scand. J. Stat. 6); NaN stays and does not count."""
    corrected = [math.nan] * len(ps)
    order = sorted((i for i, p in enumerate(ps) if not math.isnan(p)), key=lambda i: ps[i])
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * ps[i]))
        corrected[i] = largest
    return corrected


def _mean_and_error(values: Sequence[float], overlap: float) -> tuple[float, float]:
    count = len(values)
    if not count:
        return math.nan, math.nan
    spread = float(np.std(values, ddof=1)) if count > 1 else math.nan
    return float(np.mean(values)), spread * math.sqrt(1 / count + overlap)


def _overlap(run: FinishedRun) -> float:
    data = run.config.data
    return 0.0 if data.fold else data.test_fraction / (1 - data.test_fraction)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=list)
