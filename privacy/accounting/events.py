"""What is accounted: mechanisms as frozen data, apart from any accountant that interprets them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from privacy.errors import AccountingError

VERSION = 1
_MECHANISM = "poisson_subsampled_gaussian"
_FIELDS = {"version", "mechanism", "noise_multiplier", "sampling_rate", "steps"}
_SELECTION = "best_of_a_random_number_of_trials"
_SELECTION_FIELDS = {"version", "mechanism", "trials", "mean", "shape", "steps"}
_MOST_TRIALS = 10_000  # of the mean: beyond, nobody could run them
# Wide of all that anybody runs; within them no accountant's arithmetic overflows.
_NOISE, _LEAST_RATE, _MOST_STEPS = (1e-6, 1e6), 1e-9, 10**7


@dataclass(frozen=True)
class DpSgdEvent:
    """`steps` releases of a clipped sum over a Poisson sample of the privacy units, with Gaussian noise.

    With sampling rate 1 this is the plain Gaussian mechanism, so a noised histogram is an event too.

    Attributes:
        noise_multiplier: noise standard deviation over the sensitivity (the clipping norm), in [1e-6, 1e6].
        sampling_rate: q in [1e-9, 1], probability of each unit in each step, independent of all others.
        steps: number of releases, 0 to 10^7.

    Raises:
        AccountingError: a value is out of range.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int

    def __post_init__(self) -> None:
        least, most = _NOISE
        if not least <= self.noise_multiplier <= most:
            raise AccountingError(
                f"noise_multiplier must be a number in [{least:g}, {most:g}]. Found {self.noise_multiplier!r}."
            )
        if not _LEAST_RATE <= self.sampling_rate <= 1:
            raise AccountingError(
                f"sampling_rate must be in [{_LEAST_RATE:g}, 1]. Found {self.sampling_rate!r}."
            )
        _check_steps(self.steps)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` of this and every later version reads."""
        return {
            "version": VERSION,
            "mechanism": _MECHANISM,
            "noise_multiplier": self.noise_multiplier,
            "sampling_rate": self.sampling_rate,
            "steps": self.steps,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> DpSgdEvent:
        """The event that `to_json` wrote. Raises AccountingError for anything else."""
        if not isinstance(value, Mapping) or set(value) != _FIELDS:
            raise AccountingError(
                f"An event must have exactly the fields {sorted(_FIELDS)}. Found {value!r}."
            )
        if value["version"] != VERSION or value["mechanism"] != _MECHANISM:
            raise AccountingError(
                f"An event must be version {VERSION} of {_MECHANISM!r}. "
                f"Found version {value['version']!r} of {value['mechanism']!r}."
            )
        for name in ("noise_multiplier", "sampling_rate"):
            if isinstance(value[name], bool) or not isinstance(value[name], int | float):
                raise AccountingError(f"{name} must be a number. Found {value[name]!r}.")
        return DpSgdEvent(float(value["noise_multiplier"]), float(value["sampling_rate"]), value["steps"])


@dataclass(frozen=True)
class SelectionEvent:
    """The best of a random number of trials is released, and nothing of the others, nor their number.

    A trial draws one of several mechanisms by chance, runs it, and scores what it gave; trial and score are one
    release. The number of trials is drawn beforehand, from the truncated negative binomial distribution of a mean and
    a shape (Papernot and Steinke 2022, arXiv 2110.03620, Definition 1), independently of all data.

    Attributes:
        trials: the mechanisms that a trial may draw.
        mean: expected number of trials, 1 or more.
        shape: 0 for the logarithmic distribution, 1 for the geometric; any finite number, 0 or more.
        steps: number of such selections, 0 to 10^7.

    Raises:
        AccountingError: a value is out of range.
    """

    trials: tuple[DpSgdEvent, ...]
    mean: float
    shape: float
    steps: int = 1

    def __post_init__(self) -> None:
        if not self.trials or not all(isinstance(trial, DpSgdEvent) for trial in self.trials):
            raise AccountingError("trials must be one mechanism or more.")
        if not 1 <= self.mean <= _MOST_TRIALS:
            raise AccountingError(f"mean must be in [1, {_MOST_TRIALS}]. Found {self.mean!r}.")
        if not 0 <= self.shape < math.inf:
            raise AccountingError(f"shape must be a finite number, 0 or more. Found {self.shape!r}.")
        _check_steps(self.steps)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `event_from_json` of this and every later version reads."""
        return {
            "version": VERSION,
            "mechanism": _SELECTION,
            "trials": [trial.to_json() for trial in self.trials],
            "mean": self.mean,
            "shape": self.shape,
            "steps": self.steps,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> SelectionEvent:
        """The event that `to_json` wrote. Raises AccountingError for anything else."""
        if not isinstance(value, Mapping) or set(value) != _SELECTION_FIELDS:
            raise AccountingError(
                f"A selection must have exactly the fields {sorted(_SELECTION_FIELDS)}. Found {value!r}."
            )
        if value["version"] != VERSION or value["mechanism"] != _SELECTION:
            raise AccountingError(
                f"A selection must be version {VERSION} of {_SELECTION!r}. "
                f"Found version {value['version']!r} of {value['mechanism']!r}."
            )
        for name in ("mean", "shape"):
            if isinstance(value[name], bool) or not isinstance(value[name], int | float):
                raise AccountingError(f"{name} must be a number. Found {value[name]!r}.")
        if not isinstance(value["trials"], list):
            raise AccountingError(f"trials must be a list. Found {value['trials']!r}.")
        trials = tuple(DpSgdEvent.from_json(trial) for trial in value["trials"])
        return SelectionEvent(trials, float(value["mean"]), float(value["shape"]), value["steps"])


def _check_steps(steps: object) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or not 0 <= steps <= _MOST_STEPS:
        raise AccountingError(f"steps must be a whole number, 0 to {_MOST_STEPS}. Found {steps!r}.")


Event = DpSgdEvent | SelectionEvent
E = TypeVar("E", bound=Event)


def event_from_json(value: Any) -> Event:
    """The event, of whichever kind, that a `to_json` wrote. Raises AccountingError for anything else."""
    selects = isinstance(value, Mapping) and value.get("mechanism") == _SELECTION
    return SelectionEvent.from_json(value) if selects else DpSgdEvent.from_json(value)


def merge(events: Iterable[E]) -> tuple[E, ...]:
    """Merge events of the same mechanism by adding their steps; mechanisms stay in order of first use."""
    steps: dict[E, int] = {}
    for event in events:
        key = replace(event, steps=0)
        steps[key] = steps.get(key, 0) + event.steps
    return tuple(replace(event, steps=count) for event, count in steps.items() if count)
