"""Headers whose character set is missing or wrong (PS3.3 C.12.1.1.2): notes would keep the names in them."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.sequence import Sequence

from mmmed.decoding import LOST, Undecodable, guess, is_utf8

_TEXT = {"PN", "LO", "SH", "LT", "ST", "UT", "UC"}


def mend_character_set(dataset: Dataset) -> None:
    """Let a data set that was just read decode its text as it is written, where that is not what it states."""
    texts = list(_raw_texts(dataset))
    if not texts or b"\x1b" in b"".join(texts):  # ISO 2022 names its character sets in the text
        return
    stated = dataset.original_character_set
    known = [stated] if isinstance(stated, str) else list(stated)
    content = b"\n".join(texts)
    if is_utf8(content):
        encoding = "utf8"
    elif "SpecificCharacterSet" in dataset and dataset.SpecificCharacterSet and _decodes(content, known):
        return
    else:
        try:
            encoding = guess(content)
        except Undecodable:
            return
    _set(dataset, encoding)


def is_legible(name: str) -> bool:
    """Whether a name is written in letters, none of which was lost on the way."""
    return LOST not in name and "?" not in name and not any("\x80" <= letter <= "\x9f" for letter in name)


def _decodes(content: bytes, encodings: list[str]) -> bool:
    for encoding in encodings:
        try:
            content.decode(encoding)
        except (LookupError, UnicodeDecodeError):
            continue
        return True
    return False


def _raw_texts(dataset: Dataset) -> Iterator[bytes]:
    """Values of text elements that are not yet decoded and hold more than ASCII."""
    for tag in dataset.keys():  # noqa: SIM118
        element = dataset.get_item(tag)
        if isinstance(element, RawDataElement):
            if element.value and not element.value.isascii() and _vr(element) in _TEXT:
                yield element.value
        elif element is not None and isinstance(element.value, Sequence):
            for item in element.value:
                yield from _raw_texts(item)


def _vr(element: RawDataElement) -> str:
    if element.VR is not None:
        return element.VR
    try:
        return dictionary_VR(element.tag)  # implicit
    except KeyError:
        return ""


def _set(dataset: Dataset, encoding: str) -> None:
    implicit, little = dataset.original_encoding
    dataset.set_original_encoding(implicit, little, encoding)
    for tag in dataset.keys():  # noqa: SIM118
        element = dataset.get_item(tag)
        if (
            element is not None
            and not isinstance(element, RawDataElement)
            and isinstance(element.value, Sequence)
        ):
            for item in element.value:
                _set(item, encoding)
