"""Several tasks at once: one model, one head, the weighted sum of the tasks' losses."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mmmed.data.cells import Problem, text_of
from mmmed.tasks import Several
from mmmed.tasks.base import Score, Target

_MOST = 4.0  # size of a log-variance: no noise makes it run away


class SeveralTarget(Target):
    """Tasks in the order of their names. Label and prediction are those of all tasks side by side.

    A label is float32 with NaN for a task of which the record has none. The main task's scores have their names, those
    of the others "task.score". A task that a record lacks adds nothing to its loss, whatever the model says there.

    With uncertainty weights the head gives one more number s a task, and a loss counts as exp(-s) loss + s / 2
    (Kendall et al. 2018, arXiv 1705.07115): the task's log-variance, here of each record; theirs, one for all, is the
    bias of it. It is a part of the head, and so is clipped, noised and sent like the rest.
    """

    def __init__(self, section: Several) -> None:
        self._tasks = {name: task.target() for name, task in section.tasks.items()}
        self._columns = {name: tuple(task.columns.values()) for name, task in section.tasks.items()}
        self._weights = {name: section.weights.get(name, 1.0) for name in self._tasks}
        self._uncertainty = section.uncertainty
        self._main = section.main
        self.score: Score = self._tasks[self._main].score  # type: ignore[misc]
        self.also_told: tuple[str, ...] = self._tasks[self._main].also_told  # type: ignore[misc]

    @property
    def words(self) -> str:
        return "; ".join(f"{name}: {target.words}" for name, target in self._tasks.items())

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{name}: {one}" for name, target in self._tasks.items() for one in target.names)

    def answer(self, prediction: np.ndarray) -> int:
        own = [number for number in range(len(self.names)) if self._owner(number)[0] == self._main]
        return own[self._tasks[self._main].answer(prediction[own])]

    def about(self, number: int) -> str:
        name, own = self._owner(number)
        return f"{name}: {self._tasks[name].about(own)}"

    def is_probability(self, number: int) -> bool:
        name, own = self._owner(number)
        return self._tasks[name].is_probability(own)

    def shown(self, number: int, value: float) -> str:
        name, own = self._owner(number)
        return self._tasks[name].shown(own, value)

    def moved(self, number: int, change: float) -> str:
        name, own = self._owner(number)
        return self._tasks[name].moved(own, change)

    def corrected(self, prediction: np.ndarray, score: np.ndarray) -> np.ndarray:
        """The main task's numbers are corrected, the others stay."""
        own = [number for number in range(len(self.names)) if self._owner(number)[0] == self._main]
        result = prediction.copy()
        result[own] = self._tasks[self._main].corrected(prediction[own], score)
        return result

    def possible(self, answers: np.ndarray) -> tuple[str, ...]:
        return self._tasks[self._main].possible(answers)

    @property
    def together(self) -> int:
        return self._tasks[self._main].together

    def _owner(self, number: int) -> tuple[str, int]:
        """The task that a number of a prediction is of, and which of its own it is."""
        owners = [(name, own) for name, target in self._tasks.items() for own in range(len(target.names))]
        return owners[number]

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(f"{name}: {one}" for name, target in self._tasks.items() for one in target.groups)

    @property
    def questions(self) -> tuple[str, ...]:
        return tuple(f"{one} of {name}" for name, target in self._tasks.items() for one in target.questions)

    # ---------------------------------------------------------------- labels

    def unlabelled(self, empty: pd.DataFrame) -> pd.Series:
        return pd.DataFrame({name: self._lacking(name, empty) for name in self._tasks}).all(axis=1)

    def _lacking(self, name: str, empty: pd.DataFrame) -> pd.Series:
        return self._tasks[name].unlabelled(empty[list(dict.fromkeys(self._columns[name]))])

    def labels(self, cells: pd.DataFrame, path: Path, problem: Problem) -> pd.DataFrame:
        empty = cells.map(text_of) == ""
        read = []
        for name, target in self._tasks.items():
            own = cells[list(dict.fromkeys(self._columns[name]))][~self._lacking(name, empty)]
            labels = target.labels(own, path, partial(_told_of, name, problem))
            frame = labels.to_frame() if isinstance(labels, pd.Series) else labels
            frame.columns = [f"{name} {number}" for number in range(frame.shape[1])]
            read.append(frame.astype("float32").reindex(cells.index))
        labels = pd.concat(read, axis=1)
        return labels[labels.notna().any(axis=1)]

    def made_up(self, count: int) -> torch.Tensor:
        """Every third record but the first lacks one of the tasks, each in turn."""
        parts = [_columns(target.made_up(count)).float() for target in self._tasks.values()]
        for number, part in enumerate(parts):
            part[3 * number + 4 :: 3 * len(parts)] = torch.nan
        return torch.cat(parts, dim=1)

    def group_of(self, labels: np.ndarray) -> np.ndarray:
        found, offset = [], 0
        for name, known, own in self._of_each(labels):
            target = self._tasks[name]
            groups = target.group_of(own).reshape(
                int(known.sum()), len(target.questions)
            )  # perhaps of nobody
            every = np.full((len(labels), len(target.questions)), -1, dtype=np.int64)
            every[known] = np.where(groups < 0, -1, groups + offset)
            found.append(every)
            offset += len(target.groups)
        return np.concatenate(found, axis=1)

    # ---------------------------------------------------------------- model

    @property
    def outputs(self) -> int:
        return sum(target.outputs + self._uncertainty for target in self._tasks.values())

    def losses(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        given, start = self._split(outputs), 0
        losses = []
        for name, target in self._tasks.items():
            example = target.made_up(1)
            own = labels[:, start : start + example.numel()]
            start += example.numel()
            known = ~own.isnan().all(1)
            valid = torch.where(known[:, None], own, _columns(example).to(own)).to(example.dtype)
            loss = target.losses(given[name], valid if example.dim() == 2 else valid[:, 0])
            if self._uncertainty:
                log_variance = given[_variance_of(name)][:, 0]
                loss = torch.exp(-log_variance) * loss + log_variance / 2
            losses.append(self._weights[name] * torch.where(known, loss, 0.0))
        return torch.stack(losses).sum(0)

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        given = self._split(outputs)
        return torch.cat([target.predictions(given[name]) for name, target in self._tasks.items()], dim=1)

    def _split(self, outputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """(R, outputs) -> what is given for each task, by its name, and (R, 1) its log-variance, bounded."""
        found, start = {}, 0
        for name, target in self._tasks.items():
            found[name] = outputs[:, start : start + target.outputs]
            start += target.outputs
            if self._uncertainty:
                found[_variance_of(name)] = _MOST * torch.tanh(outputs[:, start : start + 1] / _MOST)
                start += 1
        return found

    # ---------------------------------------------------------------- results

    def scores(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        found: dict[str, float] = {}
        given = self._predicted(predictions)
        for name, known, own in self._of_each(labels):
            target = self._tasks[name]
            scores = target.scores(given[name][known], own) if known.any() else _none(target)
            prefix = "" if name == self._main else f"{name}."
            found |= {f"{prefix}{key}": value for key, value in scores.items()}
        return found

    def chosen_on_others(
        self, predictions: np.ndarray, labels: np.ndarray, half: np.ndarray
    ) -> dict[str, float]:
        found: dict[str, float] = {}
        given = self._predicted(predictions)
        for name, known, own in self._of_each(labels):
            prefix = "" if name == self._main else f"{name}."
            scores = self._tasks[name].chosen_on_others(given[name][known], own, half[known])
            found |= {f"{prefix}{key}": value for key, value in scores.items()}
        return found

    def evidence(self, predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The main task's; a record that lacks it has labels of NaN."""
        (known, own), given = self._main_labels(labels), self._predicted(predictions)[self._main]
        target = self._tasks[self._main]
        score, label = target.evidence(given[known], own)
        every = np.full((len(labels), score.shape[1]), 0.5), np.full((len(labels), label.shape[1]), np.nan)
        every[0][known], every[1][known] = score, label
        return every

    def guess(self, labels: np.ndarray) -> np.ndarray:
        """Each task's; where a site has no label of it, that of made-up labels."""
        return np.concatenate(
            [
                self._tasks[name].guess(own if known.any() else self._tasks[name].made_up(64).numpy())
                for name, known, own in self._of_each(labels)
            ]
        )

    def confidences(self, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The sum of the tasks' that the record has."""
        total, given = np.zeros(len(labels)), self._predicted(predictions)
        for name, known, own in self._of_each(labels):
            if known.any():
                total[known] += self._tasks[name].confidences(given[name][known], own)
        return total

    def within_sites(self, predictions: np.ndarray, labels: np.ndarray, site: np.ndarray) -> float:
        """The main task's."""
        known, own = self._main_labels(labels)
        if not known.any():
            return float("nan")
        given = self._predicted(predictions)[self._main]
        return self._tasks[self._main].within_sites(given[known], own, site[known])

    def _main_labels(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return next((known, own) for name, known, own in self._of_each(labels) if name == self._main)

    def _predicted(self, predictions: np.ndarray) -> dict[str, np.ndarray]:
        ends = np.cumsum([len(target.names) for target in self._tasks.values()])[:-1]
        return dict(zip(self._tasks, np.split(predictions, ends, axis=1), strict=True))

    def _of_each(self, labels: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Of each task: its name, (N,) bool which records have it, and the labels of those as the task has them."""
        start = 0
        for name, target in self._tasks.items():
            example = target.made_up(1).numpy()
            width = example.size
            own = labels[:, start : start + width]
            known = ~np.isnan(own).all(axis=1)
            found = own[known].astype(example.dtype)
            yield name, known, found if example.ndim == 2 else found[:, 0]
            start += width


def _told_of(name: str, problem: Problem, text: str) -> None:
    problem(f"{text} (task.tasks.{name})")


def _variance_of(name: str) -> str:
    return f"log-variance of {name}"


def _columns(labels: torch.Tensor) -> torch.Tensor:
    """(count,) or (count, L) -> (count, L)."""
    return labels.reshape(len(labels), -1)


def _none(target: Target) -> dict[str, float]:
    """Scores of nobody."""
    example = target.made_up(2)
    predictions = target.predictions(torch.zeros(2, target.outputs)).numpy()
    return dict.fromkeys(target.scores(predictions, example.numpy()), float("nan"))
