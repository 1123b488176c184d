"""Numbers of DICOM headers (DS, PS3.5 6.2). One that cannot be read is refused: a default would be wrong."""

from __future__ import annotations

import math
import re
from typing import Any

from pydicom import Dataset
from pydicom.multival import MultiValue

_DECIMAL_COMMA = re.compile(r"\s*([+-]?\d*),(\d+)\s*")  # of scanners in a locale that writes numbers so


class Unreadable(ValueError):
    """An element that is no number, or one that cannot be right; the message names the element."""


def number(value: object) -> float:
    """A finite number, written with a decimal point or comma. Raises `ValueError` if it is none."""
    comma = _DECIMAL_COMMA.fullmatch(str(value))
    read = float(f"{comma[1]}.{comma[2]}" if comma else value)  # type: ignore[arg-type]
    if not math.isfinite(read):
        raise ValueError(f"{read} is not finite")
    return read


def stated(dataset: Dataset, keyword: str) -> float | None:
    """The first value of an element, None if it is absent or empty. Raises `Unreadable` if it is no number."""
    value: Any = dataset.get(keyword)
    if isinstance(value, MultiValue):
        value = value[0] if len(value) else None
    if value is None or str(value).strip() == "":
        return None
    try:
        return number(value)
    except (TypeError, ValueError) as error:
        raise Unreadable(f"{keyword} is no number") from error
