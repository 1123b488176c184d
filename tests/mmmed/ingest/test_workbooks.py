"""What a sheet shows is what is read; where it cannot be told, the row is refused by the name of its cell."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from openpyxl.utils.datetime import CALENDAR_MAC_1904

from mmmed.ingest.options import ColumnOptions, TableOptions
from mmmed.ingest.records import Report
from mmmed.ingest.sources import Found, Skipped
from mmmed.ingest.tables import table_rows

TABLE = TableOptions(
    patient="pid", date="day", values={"crp": ColumnOptions(column="CRP")}, keep=("ward",), birth_date="born"
)
HEADER = ["pid", "day", "CRP", "ward", "born", "remark"]
ROW = ["P1", datetime(2020, 3, 9), 5.5, "north", date(1950, 1, 2), "unnamed"]


def write(
    path: Path, rows: list[list[Any]] | None = None, change: Callable[[Any], None] | None = None
) -> Path:
    book = openpyxl.Workbook()
    for row in [HEADER, *([ROW] if rows is None else rows)]:
        book.active.append(row)
    if change:
        change(book)
    book.save(path)
    return path


def read(path: Path, **options: Any) -> tuple[list[Report], list[tuple[str, str]]]:
    found = list(table_rows(Found(path, str(path)), TABLE.model_copy(update=options)))
    refused = [one for one in found if isinstance(one, Skipped)]
    return [one for one in found if isinstance(one, Report)], [
        (one.origin.removeprefix(str(path)).strip(), one.reason) for one in refused
    ]


@pytest.mark.parametrize("form, decimal", [("", "."), ("%m/%d/%Y", ","), ("excel", ",")])
def test_real_dates_and_numbers_are_read_whatever_form_text_has(
    form: str, decimal: str, tmp_path: Path
) -> None:
    [one], refused = read(write(tmp_path / "t.xlsx"), date_format=form, decimal=decimal)
    assert (
        not refused
        and one.patients == ("P1",)
        and one.date == "20200309"
        and one.person.births == {"19500102"}
    )
    assert [(m.what, m.number) for m in one.measures] == [("crp", f"5{decimal}5")] and one.values == {
        "ward": "north"
    }
    assert one.origin.endswith("row 2")


def test_titles_text_numbers_zeros_and_serials(tmp_path: Path) -> None:
    def change(book: Any) -> None:
        book.active.insert_rows(1, 2)
        book.active["A1"] = "Registry"
        book.active["A4"].number_format = "0000000"

    rows = [[14629, 39881, "5,5", True, None, None], [None] * 6, [7.0, "03/09/2009", None, 3.0, None, None]]
    good, refused = read(write(tmp_path / "t.xlsx", rows, change), date_format="excel", decimal=",")
    assert not refused and [one.patients[0] for one in good] == ["0014629", "7"]
    assert [one.date for one in good] == ["20090309", None]  # a text is no serial number
    assert [one.measures[0].number for one in good] == ["5,5", ""] and good[1].values == {"ward": "3"}
    assert good[1].origin.endswith("row 6")
    [first, _], _ = read(tmp_path / "t.xlsx", decimal=",")
    assert first.date is None  # neither is a number a date, unless the options say so


def _set(**cells: Any) -> Callable[[Any], None]:
    def change(book: Any) -> None:
        for place, value in cells.items():
            book.active[place] = value

    return change


def _percent(book: Any) -> None:
    book.active["C2"].number_format = "0.0%"


def _hide(book: Any) -> None:
    book.active.row_dimensions[2].hidden = True


def _mac(book: Any) -> None:
    book.epoch = CALENDAR_MAC_1904
    book.active["B2"] = 39881
    book.active["B2"].number_format = "General"


@pytest.mark.parametrize(
    "change, place, reason",
    [(_set(C2="=2*3"), "cell C2", "formula without a saved"), (_set(C2="#N/A"), "cell C2", "error of a formula"),
     (_set(A2=1234567890123456), "cell A2", "15 digits"), (_percent, "cell C2", "percentage"),
     (_hide, "row 2", "hidden"),
     (_mac, "cell B2", "1904"), (lambda book: book.active.merge_cells("D2:D9"), "cell D2", "merged"),
     (lambda book: book.active.merge_cells("C2:E2"), "cell C2", "merged")],
)  # fmt: skip
def test_a_cell_that_cannot_be_told_refuses_its_row(
    change: Any, place: str, reason: str, tmp_path: Path
) -> None:
    good, refused = read(write(tmp_path / "t.xlsx", change=change), date_format="excel")
    assert not good and refused[0][0] == place and reason in refused[0][1]
    for blank in refused[1:]:
        assert "merged" in blank[1]


def test_columns_that_nobody_asked_for_refuse_nothing(tmp_path: Path) -> None:
    def change(book: Any) -> None:
        book.active["F2"] = "=1/0"
        book.active.merge_cells("F2:H9")

    good, refused = read(write(tmp_path / "t.xlsx", change=change))
    assert len(good) == 1 and not refused


def test_line_ends_are_no_part_of_a_name(tmp_path: Path) -> None:
    [one], _ = read(
        write(tmp_path / "t.xlsx", change=_set(F2="Seen by Miller_x000D_\nstable")), text="remark"
    )
    assert one.text == "Seen by Miller\r\nstable"  # an underline would hide the end of the name


def test_a_merged_header_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.xlsx", change=lambda book: book.active.merge_cells("E1:F1"))
    assert "merged cells in its header" in read(path)[1][0][1]


def test_the_sheet_is_stated_or_the_only_visible_one_with_data(tmp_path: Path) -> None:
    def change(book: Any) -> None:
        book.create_sheet("empty")
        book.create_sheet("codes").append(["a", "b"])

    path = write(tmp_path / "t.xlsx", change=change)
    assert "several visible sheets" in read(path)[1][0][1]
    assert len(read(path, sheet="Sheet")[0]) == 1
    assert "without column" in read(path, sheet="codes")[1][0][1]
    assert "without the sheet" in read(path, sheet="Codes")[1][0][1]
    book = openpyxl.load_workbook(path)
    book["codes"].sheet_state = "hidden"
    book.save(path)
    assert len(read(path)[0]) == 1


def _replaced(path: Path, name: str, old: str, new: str) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {one: archive.read(one) for one in archive.namelist()}
    assert old.encode() in members[name]
    members[name] = members[name].replace(old.encode(), new.encode())
    with zipfile.ZipFile(path, "w") as archive:
        for one, content in members.items():
            archive.writestr(one, content)


def test_files_that_lie_or_attack(tmp_path: Path) -> None:
    sheet = "xl/worksheets/sheet1.xml"
    path = write(tmp_path / "t.xlsx")
    _replaced(path, sheet, 'ref="A1:F2"', 'ref="A1:A1"')  # a size that is not so
    assert len(read(path)[0]) == 1
    _replaced(path, sheet, "<worksheet", '<!DOCTYPE x [<!ENTITY a "b">]><worksheet')
    assert not read(path)[0] and "not a readable" in read(path)[1][0][1]
    path.write_bytes(b"\xd0\xcf\x11\xe0" + bytes(600))
    assert "older form .xls" in read(path)[1][0][1]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "y")
    assert "not a readable workbook" in read(path)[1][0][1]
    assert (
        "without a visible sheet"
        in read(write(path, [], _set(**dict.fromkeys(["A1", "B1", "C1", "D1", "E1", "F1"]))))[1][0][1]
    )
