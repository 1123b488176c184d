"""What a report says of a prediction, before it is in any form."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydicom import Dataset

from mmmed.config import DataConfig
from mmmed.dicom.file import is_dicom, may_be_dicom, open_dicom
from mmmed.errors import DataError
from mmmed.inference.prediction import Prediction
from mmmed.inference.study import files as names_of_files
from mmmed.tasks.base import Target

NO_DIAGNOSIS = (
    "Computed by a model. Not a diagnosis: no clinician has checked it, and it is no medical device."
)
_DIGITS = 6


class Statement(NamedTuple):
    """One thing that is said.

    Attributes:
        about: what it is about, in words.
        value: a number, calibrated where that can be had, or a text.
        probability: whether the number is one.
        note: what else there is to say of it, "" for nothing.
    """

    about: str
    value: float | str
    probability: bool
    note: str = ""


@dataclass(frozen=True)
class Told:
    """A prediction to be reported.

    Attributes:
        model: its name.
        version: of the software.
        statements: one or more.
        notes: sentences on all of them; the first says that this is no diagnosis.
        source: the DICOM object that was read, without pixels, to which the report refers; None if none was.
        patient: the patient's identifier where `source` has none, "" if nobody gave one.
    """

    model: str
    version: str
    statements: tuple[Statement, ...]
    notes: tuple[str, ...]
    source: Dataset | None
    patient: str = ""


def statements(found: Prediction, target: Target) -> tuple[Statement, ...]:
    """The numbers of a prediction, or its text.

    Raises:
        DataError: a number is not finite.
    """
    texts = [Statement(name, value, False) for name, value in found.values.items() if isinstance(value, str)]
    return tuple(texts) or tuple(
        _number(found, target, number, name) for number, name in enumerate(found.values)
    )


def _number(found: Prediction, target: Target, number: int, name: str) -> Statement:
    own = float(found.values[name])
    value = found.doubt.calibrated.get(name, own)
    if not math.isfinite(value):
        raise DataError(f"the model's answer, {name}, is no finite number: there is nothing to report")
    note = ""
    if name in found.doubt.calibrated:
        note = f"Calibrated; the model's own value is {target.shown(number, own)}."
        if ends := found.doubt.intervals.get(name):
            low, high = (target.shown(number, end) for end in ends)
            note += f" 95 % interval of the correction: {low} to {high}."
    return Statement(target.about(number), round(value, _DIGITS), target.is_probability(number), note)


def notes(found: Prediction, of_run: str) -> tuple[str, ...]:
    """Sentences on the whole of a prediction.

    Args:
        found: the prediction.
        of_run: how private the run was that trained the model, in a sentence.
    """
    missing = f"; not given: {', '.join(found.missing)}" if found.missing else ""
    said = [NO_DIAGNOSIS, f"Read: {', '.join(found.read)}{missing}.", found.doubt.told]
    if found.doubt.possible:
        said.append(f"Cannot be ruled out at {found.doubt.level:.0%}: {', '.join(found.doubt.possible)}.")
    return (*said, of_run)


def files_of(given: Mapping[str, str | Path], data: DataConfig) -> list[Path]:
    """The files of what is given of a study (`mmmed.inference.inputs`)."""
    return [Path(value) for name, value in given.items() if name in names_of_files(data)]


def source_of(files: Iterable[Path]) -> Dataset | None:
    """The first DICOM object among files that a model read, without pixels; None if there is none."""
    for path in files:
        if may_be_dicom(path):
            try:
                return open_dicom(path, pixels=False)
            except DataError:
                if is_dicom(path):
                    raise
    return None


def plain(text: str) -> str:
    """A text without control characters, on one line."""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()
