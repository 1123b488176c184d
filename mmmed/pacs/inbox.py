"""The folder that receives objects: one file each under study and object UID, complete or not there at all."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Collection
from pathlib import Path

from pydicom.dataelem import RawDataElement

from mmmed.dicom.file import MAX_FILE_BYTES as MAX_FILE_BYTES
from mmmed.dicom.file import open_dicom
from mmmed.errors import DataError

_SPARE_BYTES = 1 << 30
_UNDEFINED = 0xFFFFFFFF
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


class Inbox:
    """Takes the objects that were asked for, each after a check; thread-safe.

    An object is written to a hidden file, synchronised, read back, and renamed: a kill or a power cut leaves
    either the whole object under its name or nothing.

    Attributes:
        received: how many were kept.
        refusal: why the last of those asked for was not kept; "" if all were.
        full: what prevents writing, if something does.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._study = self._series = ""
        self._awaited: set[str] = set()
        self.received = 0
        self.refusal = ""
        self.full: OSError | None = None

    def path(self, study: str, sop: str) -> Path:
        return self._folder / study / f"{sop}.dcm"

    def lacks(self, study: str, objects: Collection[str]) -> list[str]:
        """The SOP instance UIDs that have no file yet, in the order given."""
        return [sop for sop in objects if not _is_file(self.path(study, sop))]

    def expect(self, study: str, series: str, objects: Collection[str]) -> None:
        """Take these objects from now on, and no others."""
        with self._lock:
            self._study, self._series, self._awaited, self.refusal = study, series, set(objects), ""

    def awaits(self, sop: str) -> bool:
        with self._lock:
            return sop in self._awaited

    def put(self, sop: str, content: bytes) -> None:
        """Keep an object, as a DICOM file. Raises `DataError` if it was not asked for or is not whole."""
        with self._lock:
            if sop not in self._awaited:
                raise DataError("an object that was not asked for")
            target = self.path(self._study, sop)
            part = target.with_name(f".{sop}.part")
            try:
                self._write(part, content)
                self._check(part, sop)
                part.replace(target)
            except DataError as error:
                self.refusal = str(error).removeprefix(f"{part}: ")
                raise
            except OSError as error:
                self.full = error
                raise
            finally:
                part.unlink(missing_ok=True)
            self._awaited.discard(sop)
            self.received += 1

    def _write(self, part: Path, content: bytes) -> None:
        part.parent.mkdir(mode=0o700, exist_ok=True)
        if part.parent.is_symlink():
            raise DataError(f"{part.parent.parent}: a study's folder is a symbolic link; remove it")
        if shutil.disk_usage(part.parent).free < len(content) + _SPARE_BYTES:
            raise OSError("less than 1 GiB would be left")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def _check(self, part: Path, sop: str) -> None:
        """Raise `DataError` unless the file is a complete DICOM object with this SOP instance UID."""
        dataset = open_dicom(part)
        named = (
            dataset.get("StudyInstanceUID"),
            dataset.get("SeriesInstanceUID"),
            dataset.get("SOPInstanceUID"),
        )
        if named != (self._study, self._series, sop):
            raise DataError("an object that names another study, series or object than the one asked for")
        last = dataset.get_item(max(dataset.keys()))
        cut = (
            isinstance(last, RawDataElement)
            and last.length != _UNDEFINED
            and len(last.value or b"") < last.length
        )
        if cut or ("Rows" in dataset and not any(keyword in dataset for keyword in _PIXELS)):
            raise DataError("an object that ends before it is complete")


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size > 0
