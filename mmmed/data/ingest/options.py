"""What a site states about its sources."""

from __future__ import annotations

import os
import re

from pydantic import BaseModel, ConfigDict, Field, field_validator

from mmmed.data.ingest.sections import Section


class TableColumns(BaseModel):
    """Which columns of the CSV and Parquet tables among the sources mean what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    patient: str = Field(description="column: the patient's id as in the images")
    study: str = Field("", description="column: accession number or study instance UID")
    text: str = Field("", description="column: a note")
    image: str = Field(
        "", description="column: an image (PNG, JPEG, TIFF, DICOM) or volume (NIfTI) beside the table"
    )
    keep: tuple[str, ...] = Field((), description="columns taken over: labels, laboratory values")


class IngestOptions(BaseModel):
    """Options of `mmmed.data.ingest.ingest`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: str = Field(min_length=1, description="name of the site in the table of studies")
    table: TableColumns | None = None
    sections: tuple[Section, ...] = Field(
        (), description="sections of a report that are kept; none keeps all"
    )
    labels: dict[str, str] = Field(
        {}, description="column -> regular expression: 1 if some sentence states it unnegated, else 0"
    )
    workers: int = Field(
        min(4, os.cpu_count() or 1), ge=1, description="threads that decode and look for text"
    )

    @field_validator("labels")
    @classmethod
    def _compilable(cls, labels: dict[str, str]) -> dict[str, str]:
        for column, pattern in labels.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"label {column}: not a regular expression ({error})") from error
        return labels
