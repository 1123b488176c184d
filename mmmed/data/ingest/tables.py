"""Rows of CSV and Parquet tables."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from mmmed.data.ingest.codes import Findings, code
from mmmed.data.ingest.options import TableOptions
from mmmed.data.ingest.reports import MAX_NOTE_CHARACTERS, MAX_TEXT_BYTES, Measure, Patient, Report, date, sex
from mmmed.data.ingest.sources import Found, Skipped


def table_rows(found: Found, options: TableOptions, labels: Sequence[str] = ()) -> Iterator[Report | Skipped]:
    """One report a row; of columns that are not asked for, only ``labels`` are taken, where they are there."""
    try:
        if found.path.stat().st_size > MAX_TEXT_BYTES:
            yield Skipped(found.origin, f"table larger than {MAX_TEXT_BYTES >> 20} MiB: split it")
            return
        if found.path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(found.path)
        else:
            frame = pd.read_csv(found.path, dtype=str, keep_default_na=False, encoding_errors="replace")
    except Exception as error:  # the parsers raise whatever they stumble over
        yield Skipped(found.origin, f"not a readable table ({type(error).__name__})")
        return
    missing = [column for column in options.columns if column not in frame.columns]
    if missing:
        yield Skipped(found.origin, f"table without column {', '.join(missing)} (named in [[tables]])")
        return
    taken = [*options.keep, *(name for name in labels if name in frame.columns and name not in options.keep)]
    wanted = list(dict.fromkeys([*options.columns, *taken]))
    for number, row in enumerate(frame[wanted].to_dict("records"), start=1):
        cells = {str(column): _cell(value) for column, value in row.items()}
        yield _report(cells, options, taken, found, number)


def _cell(value: object) -> str:
    return "" if pd.isna(value) else str(value).strip()  # type: ignore[call-overload]


def _report(
    cells: dict[str, str], options: TableOptions, taken: Sequence[str], found: Found, number: int
) -> Report:
    measures = [
        Measure(name, cells[one.column], one.unit or None, options.decimal)
        for name, one in options.values.items()
    ]
    if options.results:
        result = options.results
        unit = cells[result.unit] if result.unit else None
        measures.append(
            Measure(code(result.system, cells[result.code]), cells[result.value], unit, options.decimal)
        )
    findings = Findings()
    for column, system in options.codes.items():
        findings.add_cell(system, cells[column])

    def cell(column: str) -> str:
        return cells[column] if column else ""

    return Report(
        patients=(cells[options.patient],),
        studies=(study,) if (study := cell(options.study)) else (),
        text=cell(options.text)[:MAX_NOTE_CHARACTERS],
        origin=f"{found.origin} row {number}",
        date=date(cell(options.date)),
        person=Patient(
            names={cells[name] for name in options.names} - {""},
            births={date(cell(options.birth_date))} - {""},
            sexes=sex(cell(options.sex)),
        ),
        measures=tuple(measures),
        findings=findings,
        values={column: cells[column] or None for column in taken},
        file=_beside(found, cell(options.file)),
        of_patient=not options.study and not options.date,
    )


def _beside(found: Found, name: str) -> str:
    """Origin of a file that a row names by its path from the table."""
    return os.path.normpath(Path(found.origin).parent / name) if name else ""
