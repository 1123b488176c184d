"""The table of studies of a data set."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator

import pandas as pd

from mmmed.data.deidentify.header import shift_date
from mmmed.data.deidentify.keys import SiteKey
from mmmed.data.ingest.items import Written
from mmmed.data.ingest.notes import Notes, StudyNotes
from mmmed.data.ingest.options import IngestOptions
from mmmed.data.ingest.plan import Item
from mmmed.data.ingest.reports import Patient
from mmmed.data.ingest.scan import Scan

TABLE = "data.parquet"
COLUMNS = {"images": "image", "volumes": "volume", "audio": "audio", "waveforms": "waveform"}  # by folder
_OLDEST = 90  # 45 CFR 164.514(b)(2)(i)(C)

Made = tuple[Item, Written]


def study_table(
    made: Iterable[Made], found: Scan, notes: Notes, key: SiteKey, options: IngestOptions
) -> pd.DataFrame:
    """One row an image or volume; sounds and waveforms of its study beside it; studies of notes and values alone."""
    by_study: dict[str, list[Made]] = defaultdict(list)
    for item, written in made:
        by_study[item.study].append((item, written))
    rows = []
    for study in dict.fromkeys([*by_study, *notes.studies]):
        files = by_study[study]
        entry = notes.studies.get(study) or StudyNotes(files[0][0].patient)
        shared = _shared(study, entry, found.patients[entry.patient], key, options)
        if files or entry.text or any(entry.values.get(column) is not None for column in options.values):
            rows += [_row(shared, together, entry, key) for together in _together(files)]
    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    for column in options.values:
        frame[column] = frame[column].astype("float64")
    return frame.sort_values(["patient_id", "study_id", *COLUMNS.values()], ignore_index=True)


def missing_shares(table: pd.DataFrame, options: IngestOptions) -> dict[str, float]:
    """Share of the studies in which a value or label is empty."""
    studies = table.drop_duplicates("study_id")
    return {column: float(studies[column].isna().mean()) for column in (*options.values, *options.labels)}


def _together(files: list[Made]) -> Iterator[dict[str, Made]]:
    """Files of a study that stand in one row, by column; the shorter lists start again from their beginning."""
    lists: dict[str, list[tuple[str, Made]]] = defaultdict(list)
    for item, written in files:
        column = COLUMNS[written.file.partition("/")[0]]
        group = "picture" if column in ("image", "volume") else column
        lists[group].append((column, (item, written)))
    for number in range(max(map(len, lists.values()), default=1)):
        yield dict(one[number % len(one)] for one in lists.values())


def _shared(
    study: str, entry: StudyNotes, patient: Patient, key: SiteKey, options: IngestOptions
) -> dict[str, object]:
    """What all rows of a study have in common."""
    kept = [column for table in options.tables for column in table.keep]
    return {
        "patient_id": key.pseudonym("patient", entry.patient),
        "study_id": key.pseudonym("study", study),
        "site": options.site,
        "text": entry.text,
        "sex": next(iter(patient.sexes)) if len(patient.sexes) == 1 else "",
        **{column: entry.values.get(column) for column in (*kept, *options.values, *options.labels)},
        "age": entry.values.get("age", _age(patient, entry.date)),
    }


def _row(
    shared: dict[str, object], together: dict[str, Made], entry: StudyNotes, key: SiteKey
) -> dict[str, object]:
    item, written = next(iter(together.values()), (None, None))
    if picture := together.get("image") or together.get("volume"):
        item, written = picture
    facts = item.facts if item is not None else {}
    files = {column: together[column][1].file if column in together else "" for column in COLUMNS.values()}
    row = (
        {name: shared[name] for name in ("patient_id", "study_id", "site")} | files | {"text": shared["text"]}
    )
    for name in ("modality", "view", "body_part", "laterality"):
        row[name] = facts.get(name, "")
    row["sex"] = facts.get("sex") or shared["sex"]
    row["age"] = float(facts["age"]) if facts.get("age") else shared["age"]
    day = facts.get("study_date") or entry.date
    row["study_date"] = shift_date(day, key.shift_days(entry.patient))
    row["shape"] = json.dumps(written.shape if written else ())
    row["spacing_mm"] = json.dumps([round(v, 4) for v in written.spacing] if written else ())
    return row | {name: value for name, value in shared.items() if name not in row}


def _age(patient: Patient, day: str) -> float | None:
    """Whole years from the birth date, if exactly one is known, to the day of the study; 90 for all above."""
    if len(patient.births) != 1 or len(day) != 8:
        return None
    [birth] = patient.births
    try:
        years = (int(day) - int(birth)) // 10_000
    except ValueError:
        return None
    return float(min(years, _OLDEST)) if years >= 0 else None
