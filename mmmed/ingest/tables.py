"""Rows of CSV and Parquet tables."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pyarrow import parquet

from mmmed.ingest.codes import Findings, code
from mmmed.ingest.options import TableOptions
from mmmed.ingest.records import MAX_NOTE_CHARACTERS, MAX_TEXT_BYTES, Measure, Patient, Report, date, sex
from mmmed.ingest.sources import Found, Skipped

_TOGETHER = 1024  # rows of Parquet unpacked at once
_MOST_ROWS = 20_000_000

Row = Mapping[str, object] | str  # of the wanted columns; or why it is not taken


def table_rows(found: Found, options: TableOptions, labels: Sequence[str] = ()) -> Iterator[Report | Skipped]:
    """One report for each row; besides the columns that the options name, only those of ``labels`` are taken."""
    try:
        if found.path.stat().st_size > MAX_TEXT_BYTES:
            yield Skipped(found.origin, f"table larger than {MAX_TEXT_BYTES >> 20} MiB: split it")
            return
        packed = found.path.suffix.lower() == ".parquet"
        names = _parquet_columns(found.path) if packed else next(_csv_lines(found.path), [])
        missing = [column for column in options.columns if column not in names]
        if missing:
            yield Skipped(found.origin, f"table without column {', '.join(missing)} (named in [[tables]])")
            return
        if twice := [column for column in options.columns if names.count(column) > 1]:
            yield Skipped(found.origin, f"table with several columns {', '.join(twice)}: rename all but one")
            return
        taken = [*options.keep, *(name for name in labels if name in names and name not in options.keep)]
        wanted = list(dict.fromkeys([*options.columns, *taken]))
        rows = _parquet_rows(found.path, wanted) if packed else _csv_rows(found.path, wanted)
    except csv.Error as error:
        yield Skipped(found.origin, f"not a readable table ({error}): is a quotation mark left open?")
        return
    except Exception as error:  # the parsers raise whatever they stumble over
        yield Skipped(found.origin, f"not a readable table ({type(error).__name__})")
        return
    if not rows:
        yield Skipped(found.origin, "table without rows")
    for number, row in enumerate(rows, start=1):
        if isinstance(row, str):
            yield Skipped(f"{found.origin} row {number}", row)
        else:
            cells = {column: _cell(row[column]) for column in wanted}
            yield _report(cells, options, taken, found, number)


def _csv_lines(path: Path) -> Iterator[list[str]]:
    """The cells of each line that is not empty, those of the header first."""
    csv.field_size_limit(MAX_TEXT_BYTES)
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        yield from filter(None, csv.reader(file, strict=True))


def _csv_rows(path: Path, wanted: list[str]) -> list[Row]:
    """Rows of a CSV file; a row with another number of cells than the header becomes a reason to skip it."""
    lines = _csv_lines(path)
    names = next(lines)
    places = {column: names.index(column) for column in wanted}
    return [
        {column: line[place] for column, place in places.items()}
        if len(line) == len(names)
        else f"{len(line)} cells in {len(names)} columns: quote cells that hold commas or line breaks"
        for line in lines
    ]


def _parquet_columns(path: Path) -> list[str]:
    with parquet.ParquetFile(path) as file:
        return list(file.schema_arrow.names)


def _parquet_rows(path: Path, wanted: list[str]) -> list[Row]:
    """Rows with whole numbers as such (pandas turns those of a column with gaps to 7.0). Repeated cells take next to
    nothing in a file, so what is unpacked is counted."""
    rows: list[Row] = []
    unpacked = 0
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(_TOGETHER, columns=wanted, use_threads=False):
            unpacked += batch.nbytes
            if unpacked > 4 * MAX_TEXT_BYTES or len(rows) > _MOST_ROWS:
                raise ValueError("too large")
            rows += batch.to_pylist()
    return rows


def _cell(value: object) -> str:
    """A cell as text; a missing value is "", and so is a list or another that is no single value."""
    if value is None or value != value or isinstance(value, list | dict | bytes):  # (NaN differs from itself)
        return ""
    return str(value).strip()


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

    person = Patient(names={cells[name] for name in options.names} - {""}, sexes=sex(cell(options.sex)))
    person.born(cell(options.birth_date), options.date_format)
    return Report(
        patients=(cells[options.patient],),
        studies=(study,) if (study := cell(options.study)) else (),
        text=cell(options.text)[:MAX_NOTE_CHARACTERS],
        origin=f"{found.origin} row {number}",
        date=date(cell(options.date), options.date_format),
        person=person,
        measures=tuple(measures),
        findings=findings,
        values={column: cells[column] or None for column in taken},
        file=_beside(found, cell(options.file)),
        called=" ".join(cells[name] for name in options.names),
        of_patient=not options.study and not options.date,
    )


def _beside(found: Found, name: str) -> str:
    """Origin of a file that a table names by a path relative to its own folder; "" for no name."""
    return os.path.normpath(Path(found.origin).parent / name) if name else ""
