"""Scores that follow from noised sums, each with its interval, whatever they are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_NORMAL_95 = 1.959964
_TITLES = {
    "mae": "mean absolute error, share of the range",
    "r2": "R2",
    "c_index": "C-index",
    "agreement": "mean agreement of the written with the true text",
}


@dataclass(frozen=True)
class ScoreEstimate:
    """What pooled sums show.

    Attributes:
        patients: estimated number of patients, and `patients_error`, its standard error.
        scores: by name (value, low, high), the main one first; the score without noise and bins lies between low and
            high with 95 % confidence or more. Empty if there is no result.
        higher: whether more of the main score is better.
        noise_error: standard error of the main score from the noise; it is in the intervals.
        refused: why there is no result: "few-patients" or "noise".
    """

    patients: float
    patients_error: float
    scores: Mapping[str, tuple[float, float, float]]
    higher: bool = True
    noise_error: float | None = None
    refused: str | None = None

    @property
    def goodness(self) -> float | None:
        """A number that is higher the better the main score is; None without a result."""
        value = next((one[0] for one in self.scores.values()), None)
        return value if value is None or self.higher else -value

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "patients": self.patients,
            "patients_error": self.patients_error,
            "scores": [
                {"name": name, "title": _TITLES[name], "value": value, "low": low, "high": high}
                for name, (value, low, high) in self.scores.items()
            ],
            "refused": self.refused,
        }


def interval(
    value: float, noise_error: float, bin_error: float, least: float, most: float
) -> tuple[float, float, float]:
    """(value, low, high), all of them cut to [least, most]."""
    reach = _NORMAL_95 * noise_error + bin_error

    def cut(number: float) -> float:
        return float(min(most, max(least, number)))

    return cut(value), cut(value - reach), cut(value + reach)


def main_score(found: Mapping[str, Any]) -> tuple[str, float, float, float] | None:
    """(title, value, low, high) of the main score of an estimate's JSON, of any kind; None if it is not told."""
    if found["refused"]:
        return None
    if "scores" not in found:
        return "AUROC", found["auroc"], found["low"], found["high"]
    main = found["scores"][0]
    return main["title"], main["value"], main["low"], main["high"]
