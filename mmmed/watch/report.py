"""What a log says: how inputs and predictions drift, what is missing, how right it was, and for whom.

Everything is computed from the log alone, at the site, and only shown there. Of a study that was asked about several
times the first answer of a model counts, so that a reference does not change once it is past.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from mmmed.config import RunConfig
from mmmed.errors import DataError
from mmmed.inference.subgroups import FEWEST, GROUPS, Group, subgroups
from mmmed.tasks.base import Target
from mmmed.watch.drift import Stability, difference, share, stability
from mmmed.watch.labels import labels_of
from mmmed.watch.log import WatchFolder

DAYS = 30  # of the reference and of what is compared with it, unless they are said


@dataclass(frozen=True)
class Period:
    """Days in UTC, both included."""

    first: date
    last: date

    @classmethod
    def parse(cls, text: str) -> Period:
        """ "2026-01-01..2026-01-31". Raises `DataError`."""
        first, _, last = text.partition("..")
        try:
            period = cls(date.fromisoformat(first), date.fromisoformat(last))
        except ValueError as error:
            raise DataError(f"expected two days, such as 2026-01-01..2026-01-31. Found {text!r}") from error
        if period.last < period.first:
            raise DataError(f"the period {text!r} ends before it begins")
        return period

    def __contains__(self, day: date) -> bool:
        return self.first <= day <= self.last

    def __str__(self) -> str:
        return f"{self.first} to {self.last}"


@dataclass(frozen=True)
class Missing:
    """How often a modality was missing: of all studies of the reference and of now, and the change."""

    modality: str
    reference: tuple[float, float, float]
    now: tuple[float, float, float]
    change: tuple[float, float, float]

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if any(map(math.isnan, self.change)):
            return "too few"
        if self.change[1] <= 0 <= self.change[2]:
            return "stable"
        return "MORE OFTEN" if self.change[0] > 0 else "less often"


@dataclass(frozen=True)
class Calibrated:
    """Of one question in one month of predictions: the mean probability of yes, and how many were a yes."""

    month: str
    question: str
    studies: int
    predicted: float
    observed: tuple[float, float, float]

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.predicted > self.observed[2]:
            return "TOO HIGH"
        return "TOO LOW" if self.predicted < self.observed[1] else "agrees"


@dataclass(frozen=True)
class Report:
    """What a log says of one model.

    Attributes:
        model: its digest.
        models: how many models the log knows.
        predicts: in words.
        score: title of the task's main score.
        studies, labelled: how many.
        reference, now: the two periods; `now` is None as long as everything is the reference.
        counts: studies of reference and of now.
        inputs, predictions: by name, how far each has moved.
        missing: of each modality.
        calibration: by month and question; of tasks of yes and no.
        groups: the score by month, and in groups of patients.
        notes: in sentences, what the numbers leave out.
    """

    model: str
    models: int
    predicts: str
    score: str
    studies: int
    labelled: int
    reference: Period
    now: Period | None
    counts: tuple[int, int]
    inputs: Mapping[str, Stability]
    predictions: Mapping[str, Stability]
    missing: Sequence[Missing]
    calibration: Sequence[Calibrated]
    groups: Sequence[Group]
    notes: Sequence[str]


def report(
    folder: WatchFolder, *, model: str = "", reference: Period | None = None, now: Period | None = None
) -> Report:
    """What the log says.

    Args:
        folder: of the log.
        model: the first letters of a model's digest; by default of the one that predicted last.
        reference: days to compare with; by default the first 30 of the model.
        now: days that are compared; by default the last 30 with predictions, after the reference.

    Raises:
        DataError: the log holds no prediction, or no such model, or the periods overlap.
    """
    lines = folder.read()
    if not lines.predictions:
        raise DataError(f"{folder.path}: nothing was predicted yet")
    digests = list(dict.fromkeys(line["model"] for line in lines.predictions))
    chosen = [one for one in digests if one.startswith(model)] if model else digests[-1:]
    if len(chosen) != 1:
        raise DataError(
            f"{folder.path}: {len(chosen)} models begin with {model!r}. It has: {', '.join(digests)}"
        )
    config = folder.model(chosen[0])
    every = [line for line in lines.predictions if line["model"] == chosen[0]]
    mine = list({line["study"]: line for line in reversed(every)}.values())[::-1]
    days = [_day(line) for line in mine]
    reference = reference or Period(min(days), min(days) + timedelta(DAYS - 1))
    now = now or _latest(reference, max(days))
    if now and (now.first in reference or reference.first in now):
        raise DataError(f"the reference ({reference}) and what is compared with it ({now}) overlap")
    old, new = (
        [line for line, day in zip(mine, days, strict=True) if period and day in period]
        for period in (reference, now)
    )
    labels = {line["study"]: line["label"] for line in lines.labels}
    judged = [line for line in mine if line["study"] in labels]
    notes = [*_notes(lines.unreadable, len(every) - len(mine), reference, now, len(old), len(new))]
    return Report(
        model=chosen[0],
        models=len(digests),
        predicts=config.task.target().words,
        score=config.task.target().score.title,
        studies=len(mine),
        labelled=len(judged),
        reference=reference,
        now=now,
        counts=(len(old), len(new)),
        inputs=_moved(old, new, "inputs"),
        predictions=_moved(old, new, "values"),
        missing=[*_missing(old, new, config)],
        **_judged(judged, [labels[line["study"]] for line in judged], config, folder),
        notes=notes,
    )


def _day(line: Mapping[str, Any]) -> date:
    return datetime.fromisoformat(line["at"]).astimezone(UTC).date()


def _latest(reference: Period, last: date) -> Period | None:
    if last <= reference.last:
        return None
    return Period(max(reference.last + timedelta(1), last - timedelta(DAYS - 1)), last)


def _notes(
    unreadable: int, again: int, reference: Period, now: Period | None, old: int, new: int
) -> Iterator[str]:
    if now is None:
        yield f"All predictions so far are of the reference ({reference}): drift is told from the day after it."
    elif not old or not new:
        yield f"There are {old} predictions in the reference ({reference}) and {new} in {now}: no drift to tell."
    if again:
        yield f"{again} predictions were of studies asked about before; the first answer counts."
    if unreadable:
        yield f"{unreadable} lines of the log cannot be read and are left out (a machine that lost its power?)."


def _moved(old: Sequence[Any], new: Sequence[Any], part: str) -> dict[str, Stability]:
    """Of each number or category that any study has; one that is a number here and text there is text."""
    found = {}
    for name in dict.fromkeys(name for line in (*old, *new) for name in line[part]):
        values = [[line[part][name] for line in lines if name in line[part]] for lines in (old, new)]
        if any(isinstance(one, str) for side in values for one in side):
            values = [[str(one) for one in side] for side in values]
        found[name] = stability(*values)
    return found


def _missing(old: Sequence[Any], new: Sequence[Any], config: RunConfig) -> Iterator[Missing]:
    for name in config.data.modalities:
        counts = [(sum(name in line["missing"] for line in lines), len(lines)) for lines in (old, new)]
        change = difference(*counts[1], *counts[0])
        yield Missing(name, share(*counts[0]), share(*counts[1]), change)


def _judged(
    lines: Sequence[Any], labels: Sequence[Mapping[str, str]], config: RunConfig, folder: WatchFolder
) -> dict[str, Any]:
    """How right the predictions with a label were: by month, and in groups of patients."""
    if not lines:
        return {"calibration": [], "groups": []}
    target = config.task.target()
    true = labels_of(config, pd.DataFrame(labels), folder.path / "labels.jsonl")
    said = np.array([[float(line["values"][name]) for name in target.names] for line in lines])
    patient = np.array([line["patient"] or line["study"] for line in lines])
    months = np.array([f"{_day(line):%Y-%m}" for line in lines])
    groups = {"month": months.tolist()}
    groups |= {by: [str(line["groups"].get(by, "")) for line in lines] for by in GROUPS}
    groups = {by: names for by, names in groups.items() if any(names)}
    release = config.task.release
    calibration = (
        [*_calibration(target, said, true, patient, months)]
        if release is not None and release.kind == "tables"
        else []
    )
    return {"calibration": calibration, "groups": subgroups(target, said, true, patient, groups)}


def _calibration(
    target: Target, said: np.ndarray, true: np.ndarray, patient: np.ndarray, months: np.ndarray
) -> Iterator[Calibrated]:
    scores, answers = target.evidence(said, true)
    fitting = (one for one in (target.questions, target.groups) if len(one) == scores.shape[1])
    names = next(fitting, tuple(str(number + 1) for number in range(scores.shape[1])))
    for month in np.unique(months):
        for question, name in enumerate(names):
            rows = (months == month) & ~np.isnan(answers[:, question])
            if len(np.unique(patient[rows])) < FEWEST:
                continue
            score, answer = scores[rows, question], answers[rows, question]
            seen = share(int(answer.sum()), int(rows.sum()))
            yield Calibrated(str(month), name, int(rows.sum()), float(score.mean()), seen)


def prune_log(folder: WatchFolder, before: str, *, with_reference: bool = False) -> list[str]:
    """Delete the months before a month, and the labels of studies that are then in none. Their names.

    Args:
        folder: of the log.
        before: such as "2026-06".
        with_reference: also months of the reference of the model in use, which then begins later.

    Raises:
        DataError: it is no month, or the reference would be deleted and that was not said.
    """
    try:
        month = datetime.strptime(before, "%Y-%m").strftime("%Y-%m")
    except ValueError as error:
        raise DataError(f"expected a month, such as 2026-06. Found {before!r}") from error
    lines = folder.read().predictions
    mine = [_day(line) for line in lines if line["model"] == lines[-1]["model"]]
    if mine and f"{min(mine):%Y-%m}" < month and not with_reference:
        raise DataError(
            f"the first {DAYS} days of the model in use begin in {min(mine):%Y-%m}, and its later predictions are "
            "compared with them: prune to before that, or give --with-reference"
        )
    return folder.prune(month)
