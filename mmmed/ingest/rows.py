"""The table of studies of a data set."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mmmed.deidentify.header import shift_date
from mmmed.deidentify.keys import SiteKey
from mmmed.errors import DataError
from mmmed.files import replacing
from mmmed.ingest.items import Written
from mmmed.ingest.note_matching import Notes, StudyNotes
from mmmed.ingest.options import IngestOptions
from mmmed.ingest.plan import Item
from mmmed.ingest.records import Patient
from mmmed.ingest.scan import Scan

TABLE = "data.parquet"
COLUMNS = {
    "images": "image",
    "volumes": "volume",
    "audio": "audio",
    "waveforms": "waveform",
    "clips": "video",
}  # by folder
_NAMES = ("patient_id", "study_id", "site")
_CODED = ("modality", "view", "body_part", "laterality")
_FACTS = (*_CODED, "sex", "age", "study_date", "shape", "spacing_mm")
_FIXED = (*_NAMES, *COLUMNS.values(), "text", *_FACTS)
_OLDEST = 90  # 45 CFR 164.514(b)(2)(i)(C)
_LONGEST_LIFE = 125  # years: an older patient has a made-up birth date

Made = tuple[Item, Written]


@dataclass(frozen=True)
class StudyEntry:
    """All that the data set knows of one study, in JSON values.

    Attributes:
        shared: columns that are alike in all its rows.
        facts: what the study itself says of those columns that files say, too.
        files: (path below the data set, what the file says), in order.
        stands_alone: a row without any file is worth having.
    """

    shared: dict[str, Any]
    facts: dict[str, Any]
    files: list[tuple[str, dict[str, Any]]]
    stands_alone: bool


def study_entries(
    made: Iterable[Made], found: Scan, notes: Notes, key: SiteKey, options: IngestOptions
) -> Iterator[StudyEntry]:
    """The studies that have files, and those that have notes or values alone.

    Args:
        made: items and what was written of each.
        found: everything the sources hold; gives what is known of patients.
        notes: what reports say of studies.
        key: the site's key, which gives pseudonyms and shifts dates.
        options: the values and labels to be filled in.
    """
    by_study: dict[str, list[Made]] = defaultdict(list)
    for item, written in made:
        by_study[item.study].append((item, written))
    for study in dict.fromkeys([*by_study, *notes.studies]):
        files = by_study[study]
        entry = notes.studies.get(study) or StudyNotes(files[0][0].patient)
        patient, unit = found.patients[entry.patient], found.people.unit(entry.patient)
        stands_alone = bool(entry.text) or any(
            entry.values.get(column) is not None for column in options.values
        )
        if files or stands_alone:
            yield StudyEntry(
                _shared(study, entry, unit, key, options),
                _facts(None, None, entry, patient, key.shift_days(unit)),
                [
                    (written.file, _facts(item, written, entry, patient, key.shift_days(unit)))
                    for item, written in files
                ],
                stands_alone,
            )


def write_entries(entries: Iterable[StudyEntry], options: IngestOptions, path: Path) -> None:
    """Write studies as lines of JSON below a line that names the columns of their table, all or nothing."""
    kept = [column for table in options.tables for column in table.keep]
    columns = list(dict.fromkeys([*_FIXED, *kept, *options.values, *options.labels]))
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"columns": columns, "numbers": ["age", *options.values]}) + "\n")
        for entry in entries:
            file.write(json.dumps(asdict(entry)) + "\n")


def study_table(path: Path, without: Container[str]) -> pd.DataFrame:
    """The table of the studies that `write_entries` wrote.

    One row for each image or volume, with the sounds, waveforms and clips of its study, and one for each study of
    notes and values alone. The files ``without`` are left out. Raises `DataError` if ``path`` is missing or damaged.
    """
    rows: list[dict[str, Any]] = []
    try:
        with path.open(encoding="utf-8") as file:
            header = json.loads(next(file))
            for line in file:
                rows += _rows(StudyEntry(**json.loads(line)), without)
        frame = pd.DataFrame(rows, columns=list(dict.fromkeys([*header["columns"], *COLUMNS.values()])))
        frame = frame.astype(dict.fromkeys(header["numbers"], "float64"))
    except (OSError, StopIteration, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: missing or damaged ({type(error).__name__}); ingest again") from error
    return frame.sort_values(["patient_id", "study_id", *COLUMNS.values()], ignore_index=True)


def missing_shares(table: pd.DataFrame, options: IngestOptions) -> dict[str, float]:
    """Share of the studies in which a value or label is empty."""
    studies = table.drop_duplicates("study_id")
    return {column: float(studies[column].isna().mean()) for column in (*options.values, *options.labels)}


_File = tuple[str, dict[str, Any]]


def _rows(entry: StudyEntry, without: Container[str]) -> Iterator[dict[str, Any]]:
    files = [(file, facts) for file, facts in entry.files if file not in without]
    if not files and not entry.stands_alone:
        return
    for together in _together(files):
        first = next(iter(together.values()), ("", entry.facts))
        _, facts = together.get("image") or together.get("volume") or first
        names = {column: together[column][0] if column in together else "" for column in COLUMNS.values()}
        yield {**entry.shared, **facts, **names}


def _together(files: list[_File]) -> Iterator[dict[str, _File]]:
    """Files of a study that stand in one row, by column; the shorter lists start again from their beginning."""
    lists: dict[str, list[tuple[str, _File]]] = defaultdict(list)
    for file, facts in files:
        column = COLUMNS[file.partition("/")[0]]
        group = "picture" if column in ("image", "volume") else column
        lists[group].append((column, (file, facts)))
    for number in range(max(map(len, lists.values()), default=1)):
        yield dict(one[number % len(one)] for one in lists.values())


def _shared(study: str, entry: StudyNotes, unit: str, key: SiteKey, options: IngestOptions) -> dict[str, Any]:
    kept = [column for table in options.tables for column in table.keep]
    return {
        **{column: entry.values.get(column) for column in (*kept, *options.values, *options.labels)},
        "patient_id": key.patient(unit),
        "study_id": key.pseudonym("study", study),
        "site": options.site,
        "text": entry.text,
    }


def _facts(
    item: Item | None, written: Written | None, entry: StudyNotes, patient: Patient, days: int
) -> dict[str, Any]:
    """Columns that may differ between files of a study: what the file says, else what is known of the study."""
    said = item.facts if item is not None else {}
    sex = next(iter(patient.sexes)) if len(patient.sexes) == 1 else ""
    day = said.get("study_date") or entry.date
    return {
        **{name: said.get(name, "") for name in _CODED},
        "sex": said.get("sex") or sex,
        "age": float(said["age"]) if said.get("age") else entry.values.get("age", _age(patient, day)),
        "study_date": shift_date(day, days),
        "shape": json.dumps(written.shape if written else ()),
        "spacing_mm": json.dumps([round(v, 4) for v in written.spacing] if written else ()),
    }


def _age(patient: Patient, day: str) -> float | None:
    """Whole years from the birth date, if exactly one is known, to the day of the study; 90 for all above."""
    if len(patient.births) != 1 or len(day) != 8:
        return None
    [birth] = patient.births
    try:
        years = (int(day) - int(birth)) // 10_000
    except ValueError:
        return None
    return float(min(years, _OLDEST)) if 0 <= years <= _LONGEST_LIFE else None
