"""Cells of a site's table: as text, compared, and named in an error."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

LISTED = 5  # so many examples of a problem are named in an error

Problem = Callable[[str], None]  # is told what is wrong with a row; it raises, or the row is left out


def canonical(value: object) -> str:
    """Text under which 1, 1.0, "1" and True are the same value."""
    if isinstance(value, bool):
        return str(int(value))
    try:
        number = float(str(value))
    except ValueError:
        return str(value).strip()
    return str(int(number)) if number.is_integer() else str(number)


def text_of(value: object) -> str:
    """A cell as text, "" if it is empty.

    Whole numbers are without a point: one missing value of anybody makes a column of them one of floating point.
    """
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if not pd.api.types.is_scalar(value):  # a list, as a Parquet table may hold: no one value, of whatever length
        return str(value).strip()
    return "" if pd.isna(value) else str(value).strip()  # type: ignore[call-overload]


def rows_of(mask: pd.Series) -> str:
    """The rows where `mask` (bool, by the row's number from 0) is true, in words; 1 is the first under the header."""
    numbers = [str(int(index) + 1) for index in mask.index[mask]]
    more = f" and {len(numbers) - LISTED} more" if len(numbers) > LISTED else ""
    return f"row{'s' if len(numbers) > 1 else ''} {', '.join(numbers[:LISTED])}{more}"
