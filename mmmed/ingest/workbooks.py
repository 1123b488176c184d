"""Rows of a sheet of a workbook (.xlsx, ECMA-376). What a cell shows and what it stores may differ: where they do, what
it shows is taken, or the row is refused by the name of its cell."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mmmed.errors import DataError
from mmmed.ingest.options import TableOptions
from mmmed.ingest.records import EXCEL, EXCEL_ZERO, MAX_TEXT_BYTES

_LAST_ROW = 1 << 20
_HEADER_WITHIN = 100  # rows; titles may stand above the header
_MOST_MERGED = 5_000_000
_EXACT = 10**15  # a spreadsheet keeps 15 digits of a number

_DAMAGED = "not a readable workbook: damaged, encrypted or of the older form .xls; save it as .xlsx"
_SHEETS = "workbook with several visible sheets that hold data: state sheet in [[tables]]"
_NO_SHEET = "workbook without the sheet that [[tables]] names"
_HIDDEN = "hidden row: show it or delete it"
_MERGED = "merged cells: part them and fill each"
_UNSAVED = "formula without a saved result: open the workbook, let it calculate, and save it"
_ERROR = "error of a formula, such as #N/A or #REF!: correct or empty it"
_PERCENT = "number shown as a percentage: format it as a number, in the unit that the options state"
_LONG = "id of more than 15 digits stored as a number, so that its last digits are lost: store it as text"
_MAC = "serial number of a workbook that counts days from 1904: format it as a date"


class Row(NamedTuple):
    """The wanted cells of a row, or why it is not taken; and its place, or that of the cell at fault."""

    place: str
    cells: Mapping[str, object]
    reason: str = ""


Rows = Callable[[list[str]], Iterator[Row]]


@dataclass
class _Structure:
    """What a sheet says besides values: hidden rows, formulas without result and merged cells, as (row, column)."""

    hidden: set[int] = field(default_factory=set)
    unsaved: set[tuple[int, int]] = field(default_factory=set)
    merged: list[tuple[int, int, int, int]] = field(default_factory=list)  # columns and rows, first and last

    def merged_in(self, columns: set[int]) -> dict[int, int]:
        """Row -> the first of ``columns`` in which one of its cells is merged."""
        found: dict[int, int] = {}
        covered = 0
        for left, top, right, bottom in self.merged:
            inside = [column for column in columns if left <= column <= right]
            if not inside:
                continue
            covered += bottom - top + 1
            if covered > _MOST_MERGED:
                raise DataError("workbook with too many merged cells: part them")
            for row in range(top, bottom + 1):
                found[row] = min(inside)
        return found


def workbook(path: Path, options: TableOptions) -> tuple[list[str], Rows]:
    """The columns of the sheet that the options name, or of the only visible one with data; and its rows.

    The header is the first row that holds all columns of the options; else the first that is not empty.
    Raises `DataError` if there is no such sheet, or the file is none that can be read.
    """
    _check_archive(path)
    with closing(_open(path)) as book:
        title = _sheet(book, options.sheet)
        top, names = _header(book[title], options.columns)

    def rows(wanted: list[str]) -> Iterator[Row]:
        with closing(_open(path)) as book:
            yield from _rows(book, title, top, {name: names.index(name) + 1 for name in wanted}, options)

    return names, rows


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(_DAMAGED) from error
    if sum(member.file_size for member in members) > MAX_TEXT_BYTES:
        raise DataError(
            f"workbook larger than {MAX_TEXT_BYTES >> 20} MiB unpacked: split it, or save it as CSV"
        )


def _open(path: Path) -> Any:
    import openpyxl

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of styles and extensions that it does not know
        try:
            return openpyxl.load_workbook(path, read_only=True, data_only=True, keep_links=False)
        except Exception as error:  # it raises whatever it stumbles over
            raise DataError(_DAMAGED) from error


def _sheet(book: Any, stated: str) -> str:
    sheets = {sheet.title: sheet for sheet in book.worksheets}
    for sheet in sheets.values():
        sheet.reset_dimensions()  # what a file states of them may be wrong
    if stated:
        if stated not in sheets:
            raise DataError(_NO_SHEET)
        return stated
    held = [
        title
        for title, sheet in sheets.items()
        if sheet.sheet_state == "visible"
        and any(
            value is not None for row in sheet.iter_rows(max_row=_LAST_ROW, values_only=True) for value in row
        )
    ]
    if len(held) != 1:
        raise DataError(_SHEETS if held else "workbook without a visible sheet that holds data")
    return held[0]


def _header(sheet: Any, columns: list[str]) -> tuple[int, list[str]]:
    """The header's row, and its names; "" for a column without."""
    sheet.reset_dimensions()
    first: tuple[int, list[str]] | None = None
    for number, row in enumerate(sheet.iter_rows(max_row=_HEADER_WITHIN, values_only=True), start=1):
        names = ["" if value is None else str(value).strip() for value in row]
        if set(columns) <= set(names):
            return number, names
        if first is None and any(names):
            first = number, names
    return first or (1, [])


def _rows(book: Any, title: str, top: int, places: dict[str, int], options: TableOptions) -> Iterator[Row]:
    from openpyxl.utils.cell import get_column_letter

    sheet = book[title]
    sheet.reset_dimensions()
    with sheet._get_source() as source:  # (no public way to what read-only sheets leave out)
        structure = _structure(source)
    merged = structure.merged_in(set(places.values()))
    if top in merged:
        raise DataError("workbook with merged cells in its header: part them and name each column")
    mac = book.epoch != EXCEL_ZERO
    last = max(places.values(), default=1)
    for number, row in enumerate(
        sheet.iter_rows(min_row=top + 1, max_row=_LAST_ROW, max_col=last), start=top + 1
    ):
        here = [(number, column) for column in places.values()]
        if (
            all(cell.value is None for cell in row)
            and not merged.get(number)
            and structure.unsaved.isdisjoint(here)
        ):
            continue  # formatted, but empty
        place, reason = f"row {number}", _HIDDEN if number in structure.hidden else ""
        if not reason and number in merged:
            place, reason = f"cell {get_column_letter(merged[number])}{number}", _MERGED
        cells: dict[str, object] = {}
        for name, column in places.items() if not reason else ():
            cells[name], reason = _shown(row[column - 1], name, options, mac)
            if (number, column) in structure.unsaved:
                reason = _UNSAVED
            if reason:
                place = f"cell {get_column_letter(column)}{number}"
                break
        yield Row(place, cells, reason)


def _shown(cell: Any, name: str, options: TableOptions, mac: bool) -> tuple[str, str]:
    """A cell as text, and why it cannot be taken."""
    from openpyxl.utils.escape import unescape

    value = cell.value
    if value is None:
        return "", ""
    if cell.data_type == "e":
        return "", _ERROR
    is_date = name in (options.date, options.birth_date)
    if isinstance(value, date):
        return _day(value, options.date_format if is_date else ""), ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return unescape(str(value)), ""
    form = re.sub(r'"[^"]*"|\\.', "", cell.number_format or "")
    if "%" in form:
        return "", _PERCENT
    if is_date and mac and options.date_format == EXCEL:
        return "", _MAC
    whole = int(value) if float(value).is_integer() else None
    if name in (options.patient, options.study, *options.names) and whole is not None:
        if abs(whole) >= _EXACT:
            return "", _LONG
        return str(whole).zfill(len(form)) if form and not form.strip("0") else str(whole), ""
    written = str(value if whole is None or abs(whole) >= _EXACT else whole)
    numbers = [one.column for one in options.values.values()]
    if name in numbers or (options.results and name == options.results.value):
        written = written.replace(".", options.decimal)
    return written, ""


def _day(value: date, form: str) -> str:
    """A real date as the table's other dates are written."""
    if form == EXCEL:
        days = datetime(value.year, value.month, value.day) - EXCEL_ZERO
        return str(days // timedelta(days=1))
    if form:
        return value.strftime(form)
    return str(value).removesuffix(" 00:00:00")


def _structure(source: BinaryIO) -> _Structure:
    """Raises whatever the parser does; definitions of types and entities are refused."""
    from defusedxml.ElementTree import iterparse
    from openpyxl.utils.cell import coordinate_to_tuple, range_boundaries

    found = _Structure()
    row = column = 0
    sheet_data = None
    for event, element in iterparse(source, events=("start", "end"), forbid_dtd=True):
        tag = element.tag.rpartition("}")[2]
        if event == "start":
            if tag == "sheetData":
                sheet_data = element
            elif tag == "row":
                row, column = int(element.get("r") or row + 1), 0
                if element.get("hidden") in ("1", "true"):
                    found.hidden.add(row)
            continue
        if tag == "c":
            where = element.get("r")
            column = coordinate_to_tuple(where)[1] if where else column + 1
            parts = {part.tag.rpartition("}")[2]: part.text for part in element}
            if "f" in parts and not parts.get("v") and not (element.get("t") == "str" and "v" in parts):
                found.unsaved.add((row, column))
        elif tag == "row":
            if sheet_data is not None:
                sheet_data.clear()
        elif tag == "mergeCell" and (place := element.get("ref")):
            found.merged.append(range_boundaries(place))
    return found
