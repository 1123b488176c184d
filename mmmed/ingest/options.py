"""What a site states about its sources: one TOML file, checked whole before anything is read."""

from __future__ import annotations

import codecs
import os
import tomllib
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import regex
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mmmed.errors import ConfigError
from mmmed.ingest.codes import Code
from mmmed.ingest.records import EXCEL, date
from mmmed.ingest.sections import Section
from mmmed.ingest.units import is_unit

_TAKEN = {  # columns of the table of studies that have their meaning already
    "patient_id", "study_id", "site", "image", "volume", "audio", "waveform", "video", "text", "modality", "view",
    "body_part", "laterality", "sex", "age", "study_date", "shape", "spacing_mm",
}  # fmt: skip


class _Stated(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ColumnOptions(_Stated):
    """Which column of a table holds a value, and in which unit."""

    column: str = Field(min_length=1, description="column of the table")
    unit: str = Field("", description='its unit (UCUM); "" if it is that of the value')


class ResultOptions(_Stated):
    """Columns of a table that has one row a laboratory result."""

    code: str = Field(min_length=1, description="column: what was measured")
    value: str = Field(min_length=1, description="column: the number")
    unit: str = Field("", description='column: its unit (UCUM); "" if it is that of the value')
    system: str = Field("LOCAL", description="coding system of the codes")


class TableOptions(_Stated):
    """Which columns of tables mean what. A file follows the first entry that its name fits."""

    files: str = Field("*", description="file names that this describes, with * and ?")
    patient: str = Field(min_length=1, description="column: the patient's id as in the images")
    study: str = Field(
        "", description="column: accession number or study instance UID; without, values are the patient's"
    )
    date: str = Field("", description="column: when it was measured")
    date_format: str = Field(
        "",
        description='form of its dates, e.g. "%m/%d/%Y", or "excel" for serial numbers; "": year first, or d.m.yyyy',
    )
    text: str = Field("", description="column: a note")
    file: str = Field(
        "", description="column: an image, volume, sound or waveform, by its path from the table"
    )
    sex: str = Field("", description="column: m, f, w, male, weiblich ...")
    names: tuple[str, ...] = Field((), description="columns with names, to remove from notes; not kept")
    birth_date: str = Field("", description="column: to remove from notes; not kept")
    sheet: str = Field(
        "", description='workbook: name of its sheet; "": the only visible one that holds data'
    )
    delimiter: str = Field(
        "", max_length=1, description='CSV: what parts cells; "": , ; tab or |, whichever gives the columns'
    )
    encoding: str = Field(
        "", description='its encoding, e.g. "cp1252", "shift_jis"; "": UTF, else a Latin one if it fits'
    )
    decimal: str = Field(".", pattern=r"^[.,]$", description="decimal sign of its numbers")
    values: dict[str, ColumnOptions] = Field({}, description="[values] that it holds")
    results: ResultOptions | None = Field(None, description="one row a result, instead of a column a value")
    codes: dict[str, str] = Field({}, description="column of codes -> coding system, e.g. ICD10")
    keep: tuple[str, ...] = Field((), description="columns taken over as text, identifiers removed")

    @field_validator("encoding")
    @classmethod
    def _an_encoding(cls, name: str) -> str:
        try:
            codecs.lookup(name or "utf-8")
        except LookupError as error:
            raise ValueError(f"{name!r} is no encoding, such as utf-8, cp1252 or shift_jis") from error
        return name

    @field_validator("date_format")
    @classmethod
    def _states_a_day(cls, form: str) -> str:
        written = datetime(2003, 4, 5).strftime(form)
        if form and form != EXCEL and date(written, form) != "20030405":
            raise ValueError(f'{form!r} states no day; expected a form such as "%d.%m.%y", or "{EXCEL}"')
        return form

    @property
    def columns(self) -> list[str]:
        """All columns that the table must have."""
        results = (self.results.code, self.results.value, self.results.unit) if self.results else ()
        named = (
            self.patient, self.study, self.date, self.text, self.file, self.sex, self.birth_date, *self.names,
            *results, *(one.column for one in self.values.values()), *self.codes, *self.keep,
        )  # fmt: skip
        return [name for name in dict.fromkeys(named) if name]


class ValueOptions(_Stated):
    """A number in the table of studies: its unit, its codes in the sources, and its plausible range."""

    unit: str = Field(description='unit in the table of studies (UCUM), e.g. mg/L, 10*9/L, /min; "1" without')
    codes: tuple[Code, ...] = Field(
        (), description="what it is called in FHIR, C-CDA, SR and tables of results, e.g. LOINC:1988-5"
    )
    range: tuple[float, float] = Field(
        (float("-inf"), float("inf")), description="what is possible, in this unit; all else is left empty"
    )
    molar_mass: float = Field(0.0, ge=0, description="g/mol, if a source gives moles and another grams")
    factors: dict[str, float] = Field({}, description="units that UCUM does not know -> their factor")

    @field_validator("unit")
    @classmethod
    def _known(cls, unit: str) -> str:
        if not is_unit(unit):
            raise ValueError(f"{unit!r} is no UCUM unit, such as mg/L, 10*9/L, mm[Hg], Cel, % or 1")
        return unit


class LabelOptions(_Stated):
    """A label comes from exactly one of: a column of a table, codes, a regular expression over the report."""

    column: str = Field("", description="column of a table, taken as it is")
    codes: tuple[Code, ...] = Field(
        (), description="1 if one of them (or, in ICD-10, one below it) is stated, 0 if it is refuted or other "
        "codes of its system are stated",
    )  # fmt: skip
    text: str = Field("", description="regular expression: 1 if a sentence states it, 0 if none does")
    uncertain: Literal["empty", "positive", "negative"] = Field(
        "empty", description="what the label is if the report leaves open whether it is so"
    )
    sections: tuple[Section, ...] = Field(
        (), description="sections in which the text is looked for; none: all"
    )

    @model_validator(mode="after")
    def _one_rule(self) -> LabelOptions:
        if sum(map(bool, (self.column, self.codes, self.text))) != 1:
            raise ValueError("state exactly one of column, codes and text")
        if self.sections and not self.text:
            raise ValueError("sections go with text alone")
        return self

    @field_validator("text")
    @classmethod
    def _compilable(cls, pattern: str) -> str:
        try:
            regex.compile(pattern)
        except regex.error as error:
            raise ValueError(f"not a regular expression ({error})") from error
        return pattern


class IngestOptions(_Stated):
    """Options of `mmmed.ingest.ingest`."""

    site: str = Field(min_length=1, description="name of the site in the table of studies")
    sections: tuple[Section, ...] = Field(
        (), description="sections of a report that are kept; none keeps all"
    )
    nearest_days: int = Field(
        7, ge=0, description="what names no study goes to the patient's study at most so many days away"
    )
    tables: tuple[TableOptions, ...] = Field((), description="[[tables]]")
    crosswalk: str = Field(
        "", description="CSV file with columns id, person and perhaps issuer: which ids are one"
    )
    name_model: str = Field("", description="local folder of a transformers model that finds names in notes")
    values: dict[str, ValueOptions] = Field({}, description="[values.NAME]: numbers with units")
    labels: dict[str, LabelOptions] = Field({}, description="[labels.NAME]")
    workers: int = Field(
        min(4, os.cpu_count() or 1), ge=1, description="threads that decode and look for text"
    )

    @model_validator(mode="after")
    def _consistent(self) -> IngestOptions:
        kept = [column for table in self.tables for column in table.keep]
        taken = [*self.values, *self.labels, *dict.fromkeys(kept)]
        twice = {name for name in taken if taken.count(name) > 1} | (_TAKEN - {"age"}) & set(taken)
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))}: a column of that name is there already")
        for table in self.tables:
            unknown = set(table.values) - set(self.values)
            if unknown:
                raise ValueError(
                    f"tables.values.{sorted(unknown)[0]}: state its unit in [values.{sorted(unknown)[0]}]"
                )
        return self

    def table_of(self, name: str) -> TableOptions | None:
        """The options of the table with this file name; None if no entry fits."""
        return next((table for table in self.tables if fnmatchcase(name, table.files)), None)


def load_options(path: Path) -> IngestOptions:
    """Read the TOML file. Raises `ConfigError`, which names the file and the key, if it is not valid."""
    try:
        stated = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); name the site's ingest file"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from error
    try:
        return IngestOptions.model_validate(stated)
    except ValidationError as error:
        problems = (
            f"{path}: {'.'.join(map(str, p['loc'])) or 'the file'}: {_told(p['type'], p['msg'])}"
            for p in error.errors()
        )
        raise ConfigError("\n".join(problems)) from error


def _told(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "unknown key; docs/hospital-data.md lists them"
    return message.removeprefix("Value error, ")
