"""Rows of tables: CSV, Parquet and workbooks."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from mmmed.decoding import LOST, Undecodable, decode
from mmmed.errors import DataError
from mmmed.ingest.codes import Findings, code
from mmmed.ingest.options import TableOptions
from mmmed.ingest.records import MAX_NOTE_CHARACTERS, MAX_TEXT_BYTES, Measure, Patient, Report, date, sex
from mmmed.ingest.sources import Found, Skipped
from mmmed.ingest.workbooks import Row, Rows, workbook

_TOGETHER = 1024  # rows of Parquet unpacked at once
_MOST_ROWS = 20_000_000

_LOST = "row in an encoding that cannot be told: state encoding in [[tables]], or save the table as UTF-8"
_DELIMITERS = (",", ";", "\t", "|")
WORKBOOKS = (".xlsx", ".xlsm")
TABLES = (".csv", ".tsv", ".parquet", *WORKBOOKS)


def table_rows(found: Found, options: TableOptions, labels: Sequence[str] = ()) -> Iterator[Report | Skipped]:
    """One report for each row; besides the columns that the options name, only those of ``labels`` are taken."""
    try:
        if found.path.stat().st_size > MAX_TEXT_BYTES:
            yield Skipped(found.origin, f"table larger than {MAX_TEXT_BYTES >> 20} MiB: split it")
            return
        if (suffix := found.path.suffix.lower()) == ".parquet":
            names, rows = _parquet(found.path)
        elif suffix in WORKBOOKS:
            names, rows = workbook(found.path, options)
        else:
            names, rows = _csv(decode(found.path.read_bytes(), options.encoding, replace=True), options)
    except (Undecodable, DataError) as error:
        yield Skipped(found.origin, str(error))
        return
    except csv.Error as error:
        yield Skipped(found.origin, f"not a readable table ({error}): is a quotation mark left open?")
        return
    except Exception as error:  # the parsers raise whatever they stumble over
        yield Skipped(found.origin, f"not a readable table ({type(error).__name__})")
        return
    missing = [column for column in options.columns if column not in names]
    if missing:
        yield Skipped(found.origin, f"table without column {', '.join(missing)} (named in [[tables]])")
        return
    if twice := [column for column in options.columns if names.count(column) > 1]:
        yield Skipped(found.origin, f"table with several columns {', '.join(twice)}: rename all but one")
        return
    taken = [*options.keep, *(name for name in labels if name in names and name not in options.keep)]
    wanted = list(dict.fromkeys([*options.columns, *taken]))
    place = ""
    try:
        for place, stated, reason in rows(wanted):
            cells = {column: _cell(stated[column], options.encoding) for column in wanted if not reason}
            if not reason and any(LOST in cell for cell in cells.values()):
                reason = _LOST
            if reason:
                yield Skipped(f"{found.origin} {place}", reason)
                continue
            yield _report(cells, options, taken, found, place)
    except DataError as error:
        yield Skipped(found.origin, str(error))
        return
    except Exception as error:
        yield Skipped(found.origin, f"not a readable table ({type(error).__name__})")
        return
    if not place:
        yield Skipped(found.origin, "table without rows")


def _csv(text: str, options: TableOptions) -> tuple[list[str], Rows]:
    """The columns of a CSV file, and its rows; one that is damaged, or of another length than the header, is a reason.

    Without a stated delimiter it is the one that gives the columns that the options name.
    """
    first = next((line for line in io.StringIO(text, newline="") if line.strip("\r\n")), "")
    parsed = {
        sign: next(csv.reader([first], delimiter=sign), []) for sign in options.delimiter or _DELIMITERS
    }
    fit = [sign for sign, names in parsed.items() if set(options.columns) <= set(names)]
    delimiter = (fit or list(parsed))[0]
    names = parsed[delimiter]

    records = list(_records(text, delimiter))

    def rows(wanted: list[str]) -> Iterator[Row]:
        places = {column: names.index(column) for column in wanted}
        for number, line in enumerate(records[1:], start=1):
            here = f"row {number}"
            if isinstance(line, str):
                yield Row(here, {}, line)
            elif len(line) == len(names):
                yield Row(here, {column: line[place] for column, place in places.items()})
            else:
                counted = f"{len(line)} cells in {len(names)} columns"
                yield Row(here, {}, f"{counted}: quote cells that hold commas or line breaks")

    return names, rows


def _records(text: str, delimiter: str) -> Iterator[list[str] | str]:
    """The cells of each record that is not empty; why it cannot be read, if its quotation marks are amiss.

    Raises `csv.Error` if a mark is left open: what follows can be read in two ways.
    """
    csv.field_size_limit(MAX_TEXT_BYTES)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:  # the reader goes on at the next line
            if "unexpected end" in str(error):
                raise
            yield f"not a readable row ({error}): double the quotation marks within a cell"
            continue
        if cells is None:
            return
        if cells:
            yield cells


def _parquet(path: Path) -> tuple[list[str], Rows]:
    """The columns of a Parquet file, and its rows with whole numbers as such (pandas turns those of a column with gaps
    to 7.0). Repeated cells take next to nothing in a file, so what is unpacked is counted."""
    with parquet.ParquetFile(path) as file:
        names = list(file.schema_arrow.names)

    def rows(wanted: list[str]) -> Iterator[Row]:
        unpacked = count = 0
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_TOGETHER, columns=wanted, use_threads=False):
                before, count = count, count + batch.num_rows
                unpacked += batch.nbytes
                if unpacked > 4 * MAX_TEXT_BYTES or count > _MOST_ROWS:
                    raise ValueError("too large")
                # what says that it is UTF-8 may not be
                columns = [
                    one.cast(pa.binary())
                    if pa.types.is_string(one.type) or pa.types.is_large_string(one.type)
                    else one
                    for one in batch.columns
                ]
                cells = pa.RecordBatch.from_arrays(columns, batch.schema.names).to_pylist()
                yield from (Row(f"row {number}", row) for number, row in enumerate(cells, start=before + 1))

    return names, rows


def _cell(value: object, encoding: str) -> str:
    """A cell as text; a missing value is "", and so is a list or another that is no single value."""
    if value is None or value != value or isinstance(value, list | dict):  # (NaN differs from itself)
        return ""
    return (decode(value, encoding, replace=True) if isinstance(value, bytes) else str(value)).strip()


def _report(
    cells: dict[str, str], options: TableOptions, taken: Sequence[str], found: Found, place: str
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
    person.called = " ".join(cells[name] for name in options.names)
    person.born(cell(options.birth_date), options.date_format)
    return Report(
        patients=(cells[options.patient],),
        studies=(study,) if (study := cell(options.study)) else (),
        text=cell(options.text)[:MAX_NOTE_CHARACTERS],
        origin=f"{found.origin} {place}",
        date=date(cell(options.date), options.date_format),
        person=person,
        measures=tuple(measures),
        findings=findings,
        values={column: cells[column] or None for column in taken},
        file=_beside(found, cell(options.file)),
        of_patient=not options.study and not options.date,
    )


def _beside(found: Found, name: str) -> str:
    """Origin of a file that a table names by a path relative to its own folder; "" for no name."""
    return os.path.normpath(Path(found.origin).parent / name) if name else ""
