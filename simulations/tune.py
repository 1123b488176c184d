"""`mmmed privacy tune` on generated or public data: whole simulated runs over a grid of settings, for free.

Every trial is a run in a folder of its own, named by its configuration: a finished one is not run again, an interrupted
one is continued. Seeds change the split, the initialisation and the augmentation; noise is fresh in every trial anyway.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.mechanism import local_schedule
from mmmed.config import Candidate, RunConfig
from mmmed.errors import RunError
from mmmed.files import write_atomic
from mmmed.tasks.base import Score
from privacy.planning import check_delta
from privacy.report.interactive import Tried, pareto_page
from simulations.simulate import preflight
from simulations.trial import evaluated_trial

EPSILON = "privacy.target_epsilon"
_METRIC = "within_site"  # ranks patients of one site only: knowing the site does not help


@dataclass(frozen=True)
class Outcome:
    """A setting and how it did: the main score of held-out patients, within sites, one value a seed."""

    settings: Mapping[str, Any]
    epsilon: float
    delta: float
    score: Score
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.mean(self.values)

    @property
    def merit(self) -> float:
        """The mean score, negated if a lower score is better."""
        return self.mean if self.score.higher else -self.mean


def sweep(
    candidates: Sequence[Candidate],
    *,
    seeds: int,
    out: Path,
    workers: int,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Outcome]:
    """Train every candidate with every seed, and write ``sweep.csv`` and ``pareto.html`` to `out` as they finish.

    Args:
        candidates: the settings to try.
        seeds: runs of each, with training.seed and the following numbers.
        out: folder of the results and of all runs; one of an earlier sweep is continued.
        workers: processes that train sites.
        progress: called with one line for each trial.

    Raises:
        MmmedError, PrivacyError: a candidate cannot be run. What was finished before stays.
    """
    _check(candidates)
    outcomes: list[Outcome] = []
    total, done = len(candidates) * seeds, 0
    for candidate in candidates:
        found = []
        for seed in range(seeds):
            config = _with_seed(candidate.config, seed)
            found.append(_score(config, out / "trials" / _name(config), workers))
            done += 1
            progress(
                f"{done}/{total}  {described(candidate.settings)}, seed {config.training.seed}: {found[-1]:.3f}"
            )
        privacy = candidate.config.privacy
        score = candidate.config.task.target().score
        outcomes.append(
            Outcome(candidate.settings, privacy.target_epsilon, privacy.delta, score, tuple(found))
        )
        write_atomic(out / "sweep.csv", to_csv(outcomes))
        write_atomic(out / "pareto.html", _page(outcomes))
    return outcomes


def _check(candidates: Sequence[Candidate]) -> None:
    """Refuse a sweep of which a later candidate could not run, before the first does."""
    patients: dict[str, Mapping[str, int]] = {}
    for candidate in candidates:
        config = candidate.config
        data = config.data.model_dump_json()
        if data not in patients:
            patients[data] = preflight(config, "inprocess").patients
        for count in patients[data].values():
            if config.privacy.enabled:
                check_delta(config.privacy.delta, count)
            local_schedule(config, count)


def front(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Outcomes that no other one beats at the same or a smaller epsilon, by ascending epsilon."""
    kept: list[Outcome] = []
    for one in sorted(outcomes, key=lambda each: (each.epsilon, -each.merit)):
        if not kept or one.merit > kept[-1].merit:
            kept.append(one)
    return kept


def described(settings: Mapping[str, Any]) -> str:
    """Settings as one line of text, each key without its section."""
    return ", ".join(f"{key.split('.', 1)[1]} {value}" for key, value in settings.items()) or "as configured"


def to_csv(outcomes: Sequence[Outcome]) -> str:
    """A table with one row a setting."""
    text, best = io.StringIO(), front(outcomes)
    writer = csv.writer(text, lineterminator="\n")
    keys = [key for key in outcomes[0].settings if key != EPSILON]
    columns = [f"{outcomes[0].score.name}_{what}" for what in ("mean", "low", "high")]
    writer.writerow(["epsilon", "delta", *keys, "seeds", *columns, "on_front"])
    for one in outcomes:
        values = (one.settings[key] for key in keys)
        numbers = (len(one.values), f"{one.mean:.4f}", f"{min(one.values):.4f}", f"{max(one.values):.4f}")
        writer.writerow([f"{one.epsilon:g}", f"{one.delta:g}", *values, *numbers, one in best])
    return text.getvalue()


def _page(outcomes: Sequence[Outcome]) -> str:
    best = front(outcomes)
    return pareto_page(
        [
            Tried(
                described({key: value for key, value in one.settings.items() if key != EPSILON}),
                one.epsilon,
                one.mean,
                min(one.values),
                max(one.values),
                one in best,
            )
            for one in outcomes
        ],
        score=outcomes[0].score.title,
        seeds=len(outcomes[0].values),
        delta=outcomes[0].delta,
    )


def _score(config: RunConfig, folder: Path, workers: int) -> float:
    """The main score of a trial; the run is found, continued or done."""
    target = config.task.target()
    value = evaluated_trial(config, folder, workers)[target.score.name][_METRIC]["value"]
    if not isinstance(value, float):
        raise RunError(
            f"{folder}: no {target.score.title}, since no site holds out patients of every kind of label. Hold out more"
        )
    return value


def _with_seed(config: RunConfig, number: int) -> RunConfig:
    training = config.training.model_copy(update={"seed": config.training.seed + number})
    return config.model_copy(update={"training": training})


def _name(config: RunConfig) -> str:
    return config.digest[:12]
