"""What a model says of one study, with what it was asked to say about that."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mmmed.inference.explain import Detail


class Doubt(NamedTuple):
    """How far the values of a prediction can be taken at their word.

    Attributes:
        calibrated: the values corrected by the results that hospitals released of their held-out patients, by name.
            Empty if that could not be done.
        intervals: of each that answers a question, the 95 % interval of the corrected value: of a share of patients.
        possible: what is possible of the patient at `level`, in words.
        level: of the patients of each answer, for how many that answer is among the possible, or more.
        told: how it was calibrated, or why it could not be, in words.
    """

    calibrated: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    possible: tuple[str, ...] = ()
    level: float = 0.0
    told: str = "not calibrated"


class Prediction(NamedTuple):
    """What a model says of one study.

    Attributes:
        values: each number of the task by its name, such as a class's probability; as the model gives it, which `doubt`
            has calibrated. Of a task of text, the text by the name of its column.
        read: modalities of the study that it was made from.
        missing: those that the model could have read.
        shares: what each of `read` added to each of `values`, beginning from `nothing` (`mmmed.inference.Shares`); by
            modality, then by name. Empty if it was not asked for.
        without: `values` without each of `read` alone, in the same way.
        nothing: `values` where nothing is known.
        details: what places, words, columns or times of each of `read` did (`mmmed.inference.Detail`), whose K is the
            order of `values`. Empty if it was not asked for.
        doubt: the values calibrated, their intervals, and what is possible; or why that cannot be told.
    """

    values: dict[str, float | str]
    read: tuple[str, ...]
    missing: tuple[str, ...]
    shares: dict[str, dict[str, float]] = {}
    without: dict[str, dict[str, float]] = {}
    nothing: dict[str, float] = {}
    details: dict[str, Detail] = {}
    doubt: Doubt = Doubt()

    def to_dict(self) -> dict[str, Any]:
        """It for JSON; arrays are nested lists, those of places rounded to 6 digits."""
        return self._asdict() | {
            "details": {name: _detail(one, list(self.values)) for name, one in self.details.items()},
            "doubt": self.doubt._asdict(),
        }


def _detail(detail: Detail, names: list[str]) -> dict[str, Any]:
    def by_name(values: np.ndarray) -> dict[str, Any]:
        return {name: one.round(6).tolist() for name, one in zip(names, values, strict=True)}

    if detail.map is None:
        return {"shown": detail.shown, "names": list(detail.names), "shares": by_name(detail.shares)}
    return {"shown": detail.shown, "shape": list(detail.map.shape[1:]), "map": by_name(detail.map)}
