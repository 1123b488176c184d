"""What is accounted: mechanisms as frozen data, apart from any accountant that interprets them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from privacy.errors import AccountingError

VERSION = 1
_MECHANISM = "poisson_subsampled_gaussian"
_FIELDS = {"version", "mechanism", "noise_multiplier", "sampling_rate", "steps"}


@dataclass(frozen=True)
class DpSgdEvent:
    """`steps` releases of a clipped sum over a Poisson sample of the privacy units, with Gaussian noise.

    With sampling rate 1 this is the plain Gaussian mechanism, so a noised histogram is an event too.

    Attributes:
        noise_multiplier: noise standard deviation over the sensitivity (the clipping norm), above 0.
        sampling_rate: q in (0, 1], probability of each unit in each step, independent of all others.
        steps: number of releases, 0 or more.

    Raises:
        AccountingError: a value is out of range.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0):
            raise AccountingError(
                f"noise_multiplier must be a finite number above 0. Found {self.noise_multiplier!r}."
            )
        if not 0 < self.sampling_rate <= 1:
            raise AccountingError(f"sampling_rate must be in (0, 1]. Found {self.sampling_rate!r}.")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 0:
            raise AccountingError(f"steps must be a whole number, 0 or more. Found {self.steps!r}.")

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


def merge(events: Iterable[DpSgdEvent]) -> tuple[DpSgdEvent, ...]:
    """The same composition with one event per (noise multiplier, sampling rate), in order of first use."""
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        key = (event.noise_multiplier, event.sampling_rate)
        steps[key] = steps.get(key, 0) + event.steps
    return tuple(DpSgdEvent(sigma, rate, count) for (sigma, rate), count in steps.items() if count)
