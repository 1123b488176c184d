"""What a PACS can be asked, whichever protocol it speaks, and how it fails."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from pydicom import Dataset

from mmmed.errors import DataError
from mmmed.pacs.inbox import Inbox

Level = Literal["STUDY", "SERIES", "IMAGE"]
ATTEMPTS = 3
RETRY_SECONDS = 1.0
MAX_MATCHES = 100_000  # of one question; no day, study or series has more


def attempts() -> Iterator[int]:
    """Numbers of the attempts at a connection, each after a longer wait."""
    for number in range(ATTEMPTS):
        time.sleep(RETRY_SECONDS * 2**number if number else 0)
        yield number


class Refused(DataError):
    """One question or retrieval failed; others may succeed."""


class Unreachable(DataError):
    """The PACS cannot be spoken to at all."""


@dataclass(frozen=True)
class Series:
    """A series: its study and own instance UID, and SOP instance UID -> SOP class UID, "" if the PACS tells none."""

    study: str
    uid: str
    objects: Mapping[str, str]


class Archive(Protocol):
    """A PACS (Study Root model of PS3.4 annex C, or the studies service of PS3.18 chapter 10)."""

    def find(self, level: Level, keys: Mapping[str, str]) -> list[Dataset]:
        """Identifiers that match ``keys`` (keyword -> value; "" asks for the value).

        Raises `Refused` if the PACS fails the question, `Unreachable` if there is no talking to it.
        """

    def retrieve(self, series: Series, missing: Collection[str], inbox: Inbox) -> None:
        """Put the ``missing`` objects of a series into the inbox. Raises as `find` does.

        What came before a failure stays in the inbox.
        """

    def close(self) -> None:
        """End associations and listeners."""


def valid_uid(value: object) -> str:
    """``value`` as a UID (PS3.5 section 9.1), safe as a file name. Raises `Refused` if it is none."""
    uid = str(value or "").strip("\0 ")
    if len(uid) > 64 or not re.fullmatch(r"[0-9]+(?:\.[0-9]+)*", uid):
        raise Refused("the PACS named a study, series or object by something that is no DICOM UID")
    return uid
