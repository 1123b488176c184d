"""Text of a header without building an element for each: most of a scan is reading a few plain values of many files."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

_PLAIN = {"AE", "AS", "CS", "DA", "DS", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
_PADDING = b" \0"


def text(dataset: Dataset, keyword: str) -> str:
    """The value of an element as text, without spaces around it; "" if there is none. Of several values, a list's."""
    element = dataset.get_item(_tag(keyword), keep_deferred=True)
    if element is None:
        return ""
    if isinstance(element, RawDataElement) and is_simple(element.value) and _kind(element) in _PLAIN:
        return element.value.strip(_PADDING).decode("ascii")
    return str(dataset.get(keyword) or "").strip()


def texts(dataset: Dataset, keyword: str) -> list[str]:
    """The values of an element as text, without empty ones and without spaces around them."""
    element = dataset.get_item(_tag(keyword), keep_deferred=True)
    if element is None:
        return []
    if isinstance(element, RawDataElement) and is_simple(element.value):
        return [said] if (said := text(dataset, keyword)) else []
    value = dataset.get(keyword)
    several = value if isinstance(value, MultiValue) else [value]
    return [said for one in several if (said := str(one or "").strip())]


def is_simple(value: object) -> bool:
    """Whether the bytes of an element are one value that every character set reads alike."""
    return isinstance(value, bytes) and value.isascii() and b"\\" not in value and b"\x1b" not in value


def values_of(dataset: Dataset, vr: str, keywords: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Value representation and text of all elements with that one or with one of the keywords, at any depth."""
    tags = _tags(keywords)
    for tag in dataset.keys():  # noqa: SIM118
        element = dataset.get_item(tag, keep_deferred=True)
        if isinstance(element, RawDataElement):
            kind = _kind(element)
            if kind not in (vr, "SQ", "UN", None) and tag not in tags:
                continue
            if kind in _PLAIN and is_simple(element.value):
                yield kind, element.value.strip(_PADDING).decode("ascii")
                continue
            element = dataset[tag]
        if isinstance(element.value, Sequence):
            for item in element.value:
                yield from values_of(item, vr, keywords)
        elif vr == element.VR or tag in tags:
            several = element.value if isinstance(element.value, MultiValue) else [element.value]
            yield from ((element.VR, str(one or "").strip()) for one in several)


@functools.cache
def _tag(keyword: str) -> BaseTag:
    return BaseTag(tag_for_keyword(keyword))  # type: ignore[arg-type]


@functools.cache
def _tags(keywords: frozenset[str]) -> frozenset[BaseTag]:
    return frozenset(map(_tag, keywords))


def _kind(element: RawDataElement) -> str | None:
    return element.VR or _public(element.tag)


@functools.cache
def _public(tag: BaseTag) -> str | None:
    """The value representation of an implicit element; None if the dictionary does not know it."""
    try:
        return dictionary_VR(tag)
    except KeyError:
        return None
