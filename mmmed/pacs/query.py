"""Which studies are wanted, asked day by day and checked again in what the PACS answers.

Archives cut long answers short, often silently; they ignore keys that they do not support, and differ in whether
case matters (PS3.4 C.2.2.2). So the questions are small, and the description is matched here.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pydicom import Dataset

from mmmed.errors import ConfigError


@dataclass(frozen=True)
class Query:
    """Studies of the days from ``first`` to ``last``, both included.

    Attributes:
        modalities: coded values such as CT; only series of these are retrieved. None: all.
        description: study description, * for any characters and ? for one, in any case. "": any.
    """

    first: datetime.date
    last: datetime.date
    modalities: tuple[str, ...] = ()
    description: str = ""

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise ConfigError(f"the last day {self.last} is before the first {self.first}; swap them")
        for modality in self.modalities:
            if not re.fullmatch(r"[A-Z0-9_ ]{1,16}", modality):
                raise ConfigError(f"modality {modality!r}: expected a DICOM code such as CT, MR, CR or SR")
        if len(self.description) > 64 or "\\" in self.description:
            raise ConfigError("study description: at most 64 characters, without backslash")

    def days(self) -> Iterator[datetime.date]:
        for number in range((self.last - self.first).days + 1):
            yield self.first + datetime.timedelta(days=number)

    def keys(self, day: datetime.date) -> Iterator[dict[str, str]]:
        """Study-level matching keys: one question a day and modality, since lists of modalities are optional."""
        for modality in self.modalities or ("",):
            yield {
                "StudyDate": f"{day:%Y%m%d}",
                "ModalitiesInStudy": modality,
                "StudyDescription": "",
                "StudyInstanceUID": "",
            }

    def wants_study(self, found: Dataset, day: datetime.date) -> bool:
        """Whether a study that the PACS named is one that was asked for."""
        held = found.get("ModalitiesInStudy") or []
        held = {str(held)} if isinstance(held, str) else {str(one) for one in held}
        pattern = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in self.description or "*")
        return (
            str(found.get("StudyDate") or "").replace(".", "") == f"{day:%Y%m%d}"
            and (not held or not self.modalities or not held.isdisjoint(self.modalities))
            and re.fullmatch(pattern, str(found.get("StudyDescription") or "").strip(), re.I | re.S)
            is not None
        )

    def wants_series(self, found: Dataset) -> bool:
        return not self.modalities or str(found.get("Modality") or "") in self.modalities
