"""Numbers with units as hospitals write them, in the unit that the site asks for.

Units are UCUM (The Unified Code for Units of Measure, as in FHIR); pint converts them and ucumvert reads them.
"""

from __future__ import annotations

import functools
import math
import re
from typing import Any

_SPELLINGS = {  # what laboratories print, and what UCUM calls it
    "mmhg": "mm[Hg]", "°c": "Cel", "°f": "[degF]", "bpm": "/min", "1/min": "/min", "iu/l": "[IU]/L",
    "iu/ml": "[IU]/mL", "miu/l": "m[IU]/L", "mval/l": "meq/L", "meq/l": "meq/L", "g/l": "g/L",
    "years": "a", "year": "a", "jahre": "a",
}  # fmt: skip
_LONGEST = 64  # characters of a unit; the parser's time grows with them
_NUMBER = re.compile(r"([<>]=?|≤|≥)?\s*([+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?)")


class NotUsable(ValueError):
    """A value that has to be left empty; the message is a kind of reason, so that reasons can be counted."""


def is_unit(text: str) -> bool:
    """Whether a text is a UCUM unit or another known spelling of one."""
    try:
        _unit(text)
    except NotUsable:
        return False
    return True


def number(text: str, decimal: str = ".") -> tuple[float, bool]:
    """The number that a text states, and whether it is a limit of measurement such as ``< 0.6``.

    Raises `NotUsable` if it is none: with the decimal sign ``.``, ``5,3`` is none rather than 5 or 53.
    """
    if decimal == ",":
        text = text.replace(".", "?").replace(",", ".")
    match = _NUMBER.fullmatch(text.strip())
    if not match or not math.isfinite(value := float(match[2])):
        raise NotUsable("not a number")
    return value, match[1] is not None


def convert(value: float, unit: str, wanted: str, molar_mass: float = 0.0) -> float:
    """Convert a number to another unit.

    Args:
        value: the number.
        unit: its unit, UCUM or another spelling that `is_unit` knows.
        wanted: the unit of the result.
        molar_mass: g/mol, to convert between moles and grams; 0 if unknown.

    Raises:
        NotUsable: UCUM does not know a unit, or the two measure different things.
    """
    if unit == wanted:
        return value
    import pint

    (scale, units), (wanted_scale, wanted_units) = _unit(unit), _unit(wanted)
    for power in (0, 1, -1) if molar_mass else (0,):
        try:
            quantity = _registry().Quantity(value * scale, units)
            if power:  # g/mol times moles are grams; a temperature has no product and raises
                quantity = quantity * _registry().Quantity(molar_mass, "g/mol") ** power
            converted = float(quantity.to(wanted_units).magnitude) / wanted_scale
        except (pint.PintError, OverflowError):
            continue
        if math.isfinite(converted):
            return converted
    raise NotUsable("in a unit of another kind")


@functools.lru_cache(maxsize=4096)
def _unit(text: str) -> tuple[float, Any]:
    """A unit as text -> a factor and pint's unit. Raises `NotUsable` if it is not known."""
    unit = text.strip().replace("µ", "u").replace("μ", "u")
    if not unit:
        raise NotUsable("without a unit")
    if len(unit) > _LONGEST:
        raise NotUsable("in an unknown unit")
    unit = _SPELLINGS.get(unit.casefold(), unit)
    try:
        found = _registry().from_ucum(unit)
    except Exception as error:  # the parser raises whatever it stumbles over
        raise NotUsable("in an unknown unit") from error
    return float(found.magnitude), found.units


@functools.cache
def _registry() -> Any:
    from ucumvert import PintUcumRegistry  # builds its grammar: half a second

    return PintUcumRegistry()
