"""What is written of a prediction: numbers of what was read and said, and whom it was of in pseudonyms and groups."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from mmmed.config import DataConfig, RunConfig
from mmmed.data.cells import text_of
from mmmed.data.loader import Records
from mmmed.data.manifest import read_table, table_file
from mmmed.dicom.file import is_dicom, open_dicom
from mmmed.errors import DataError
from mmmed.inference.subgroups import GROUPS, age_band
from mmmed.modalities import MODALITIES
from mmmed.tasks import Text
from mmmed.watch.log import WatchFolder

KNOWN = ("study", "patient", "sex", "age", "site", "scanner")
_BATCH = 32
_LONGEST = 64  # characters of a group's name
_AGE = re.compile(r"(\d{3})([DWMY])")  # PS3.5 section 6.2, AS
_OF_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}


@dataclass(frozen=True)
class Watch:
    """Writes a model's predictions into a log.

    Attributes:
        folder: of the log.
        model: digest of the model's weights.
        config: the model's.
        about: what is said of the study that is asked about next, by the names of `KNOWN`.
    """

    folder: WatchFolder
    model: str
    config: RunConfig
    about: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: str | Path, model: str, config: RunConfig) -> Watch:
        """The log in a folder, which is made if need be.

        Raises:
            DataError: the folder cannot have one; or the task answers with a text, of which nothing is watched.
        """
        if isinstance(config.task, Text):
            raise DataError(
                f"task {config.task.kind!r} answers with a text, of which no number can be watched"
            )
        opened = WatchFolder.make(Path(folder))
        opened.keep_model(model, config)
        return cls(opened, model, config)

    def asking(self, **known: str) -> Watch:
        """The same of a study of which this is known. Raises `DataError` on a name that is none of `KNOWN`."""
        if unknown := sorted(known.keys() - set(KNOWN)):
            raise DataError(f"nothing is watched of {unknown[0]!r}. What may be said: {', '.join(KNOWN)}")
        return replace(self, about=dict(known))

    def record(self, study: Records, given: Mapping[str, str | Path], numbers: np.ndarray) -> None:
        """Write one prediction.

        What was not said of the study is taken from the header of a DICOM file that was given, and from its values.

        Args:
            study: as it was read.
            given: what it was read from, by the names of the model's inputs.
            numbers: (K,) what the model said.
        """
        told = {name: str(value) for name, value in given.items() if name in KNOWN and isinstance(value, str)}
        self.record_all(study, [{**_header(given), **told, **self.about}], numbers[None])

    def record_all(self, studies: Records, about: Sequence[Mapping[str, str]], numbers: np.ndarray) -> None:
        """Write N predictions, (N, K), each with what is known of its study."""
        lines, at = [], 0
        names = self.config.task.target().names
        for batch in studies.batches(_BATCH):
            watched = [
                MODALITIES[name].watched(given, self.config.data) for name, given in batch.inputs.items()
            ]
            for seen in zip(*watched, strict=True):
                known = about[at]
                lines.append(
                    {
                        "model": self.model,
                        "study": self.folder.study(known.get("study", "")),
                        "patient": self.folder.patient(known.get("patient", "")),
                        "values": dict(zip(names, map(_rounded, numbers[at].tolist()), strict=True)),
                        "inputs": {k: _rounded(v) for one in seen for k, v in one.items()},
                        "missing": [name for name, one in zip(batch.inputs, seen, strict=True) if not one],
                        "groups": groups_of(known),
                    }
                )
                at += 1
        self.folder.add(lines)


def known_of(records: pd.DataFrame, root: Path, data: DataConfig) -> list[dict[str, str]]:
    """What a table says of its studies, by the names of `KNOWN` and ``age_band``: the columns of these names.

    Args:
        records: N of `mmmed.data.manifest.Manifest.records`.
        root: the data folder.
        data: which table of it.
    """
    table = read_table(table_file(root, data)).loc[records["row"]]
    own = [name for name in ("sex", "age", "age_band", "scanner") if name in table.columns]
    cells = table[own].map(text_of).to_dict("records")
    named = records[["study", "patient", "site"]].to_dict("records")
    return [
        {str(k): str(v) for k, v in {**cell, **name}.items()} for cell, name in zip(cells, named, strict=True)
    ]


def groups_of(known: Mapping[str, str]) -> dict[str, str]:
    """The groups that a study belongs to, by the names of `GROUPS`; those that are not known are left out."""
    found = {name: str(known.get(name, "")).strip()[:_LONGEST] for name in GROUPS}
    found["age_band"] = found["age_band"] or age_band(known.get("age", ""))
    return {name: value for name, value in found.items() if value}


def _rounded(value: float | str) -> float | str:
    """To six digits; what is no number stands as text, since JSON has no word for it."""
    if isinstance(value, str):
        return value[:_LONGEST]
    return float(f"{value:.6g}") if math.isfinite(value) else str(value)


def _header(given: Mapping[str, str | Path]) -> dict[str, str]:
    """What the header of the first DICOM file among what was given says of its study."""
    for value in given.values():
        path = Path(value) if len(str(value)) < 4096 and "\0" not in str(value) else Path()
        try:
            if not path.is_file() or not is_dicom(path):
                continue
            header = open_dicom(path, pixels=False)
            tags = {
                "study": "StudyInstanceUID", "patient": "PatientID", "sex": "PatientSex", "age": "PatientAge",
                "scanner": "ManufacturerModelName", "born": "PatientBirthDate", "day": "StudyDate",
            }  # fmt: skip
            found = {name: str(header.get(tag) or "").strip() for name, tag in tags.items()}
        except (DataError, OSError, ValueError):
            continue
        found["age"] = _years(found["age"], found.pop("born"), found.pop("day"))
        return {name: one for name, one in found.items() if one}
    return {}


def _years(age: str, born: str, day: str) -> str:
    """An age in years from PatientAge, else from two dates; "" if neither tells one."""
    if match := _AGE.fullmatch(age):
        return str(int(int(match[1]) / _OF_YEAR[match[2]]))
    try:
        first, last = date.fromisoformat(born), date.fromisoformat(day)
    except ValueError:
        return ""
    years = last.year - first.year - ((last.month, last.day) < (first.month, first.day))
    return str(years) if years >= 0 else ""
