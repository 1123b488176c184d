"""Opening a DICOM file that may be broken or hostile."""

from __future__ import annotations

import zlib
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from mmmed.dicom.charset import mend_character_set
from mmmed.errors import DataError

MAX_FILE_BYTES = 2 << 30  # larger objects (whole slides) do not belong into memory
MAX_INFLATED_BYTES = 512 << 20
_CHUNK = 1 << 20
_HEAD = 2048  # bytes: longer than file meta information is wont to be
_SUFFIXES = {"", ".dcm", ".dicom", ".ima"}


def is_dicom(path: Path) -> bool:
    """Whether the file carries the DICOM prefix (PS3.10 section 7.1)."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def may_be_dicom(path: Path) -> bool:
    """Whether it is tried as DICOM: it has the prefix, or a name that such files have also without it."""
    return is_dicom(path) or path.suffix.lower() in _SUFFIXES


def open_dicom(path: Path, *, pixels: bool = True) -> Dataset:
    """Read a DICOM object; without ``pixels`` the parser stops before the pixel data.

    Files without preamble or file meta information (bare data sets of old archives) are read too, if they
    hold a SOP class. Raises `DataError` if the file is no DICOM, is damaged, or would not fit in memory.
    """
    dataset = parse_dicom(path, pixels=pixels)
    if "SOPClassUID" not in dataset:
        raise DataError(f"{path}: not a DICOM object (it has no SOP Class UID); export it again")
    return dataset


def parse_dicom(path: Path, *, pixels: bool = True) -> Dataset:
    """Read a DICOM file of any kind, including a DICOMDIR. Raises as `open_dicom`."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise DataError(f"{path}: larger than {MAX_FILE_BYTES >> 30} GiB; split the object or leave it out")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        prefixed = head[128:132] == b"DICM"
        if prefixed and not _is_surely_plain(head):
            _refuse_zip_bomb(path)
        dataset = dcmread(path, stop_before_pixels=not pixels, force=not prefixed)
        _complete_transfer_syntax(dataset)
        mend_character_set(dataset)
    except (DataError, OSError):
        raise
    except Exception as error:  # the parser raises whatever it stumbles over, RecursionError included
        raise DataError(
            f"{path}: cannot be parsed as DICOM ({type(error).__name__}); export it again from the archive"
        ) from error
    return dataset


def _complete_transfer_syntax(dataset: Dataset) -> None:
    """Name the encoding that the parser detected where the file meta information lacks it."""
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _refuse_zip_bomb(path: Path) -> None:
    """Inflate a deflated data set piece by piece, keeping nothing: pydicom would inflate it without limit."""
    with path.open("rb") as file:
        read_preamble(file, force=False)
        if _read_file_meta_info(file).get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return
        inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while not inflater.eof and (piece := inflater.unconsumed_tail or file.read(_CHUNK)):
            total += len(inflater.decompress(piece, _CHUNK))
            if total > MAX_INFLATED_BYTES:
                raise DataError(f"{path}: inflates to more than {MAX_INFLATED_BYTES >> 20} MiB; refused")


def _is_surely_plain(head: bytes) -> bool:
    """Whether the file meta information ends within ``head``, is of ordinary elements and names no deflated encoding.

    Parsing it would cost a fifth of reading a header; where this says no, it is parsed.
    """
    place, start = 132, 132
    while head[place : place + 2] == b"\2\0":
        if head[place + 4 : place + 6] == b"OB":
            place += 12 + int.from_bytes(head[place + 8 : place + 12], "little")
        elif head[place + 4 : place + 6] in (b"UL", b"UI", b"SH", b"AE"):
            place += 8 + int.from_bytes(head[place + 6 : place + 8], "little")
        else:
            return False
    return start < place < len(head) - 2 and DeflatedExplicitVRLittleEndian.encode() not in head[:place]
