"""What sources say of patients and studies, in one form whatever they are written in; and plain text files."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mmmed.decoding import Undecodable, decode
from mmmed.ingest.codes import Findings
from mmmed.ingest.sources import Found, Skipped

MAX_TEXT_BYTES = 256 << 20
MAX_NOTE_CHARACTERS = 200_000
_SEXES = {
    "M": ("m", "male", "man", "männlich", "mann"),
    "F": ("f", "female", "woman", "w", "weiblich", "frau"),
    "O": ("o", "other", "d", "divers", "un", "x"),
}
_SEX = {spelling: sex for sex, spellings in _SEXES.items() for spelling in spellings}


@dataclass
class Patient:
    """What sources say of a patient; names, ids and birth dates must not survive in notes.

    `called` is the patient's own full name; `names` may hold those of others, too. `unread_births` counts birth dates
    that are stated but cannot be read.
    """

    names: set[str] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    births: set[str] = field(default_factory=set)
    sexes: set[str] = field(default_factory=set)
    places: set[str] = field(default_factory=set)
    called: str = ""
    unread_births: int = 0

    def born(self, stated: str, form: str = "") -> None:
        """Add a birth date; one that cannot be read is only kept out of notes, as it is written."""
        day = date(stated, form)
        if day is None:
            self.ids.add(stated.strip())
            self.unread_births += 1
        elif day:
            self.births.add(day)

    def learn(self, other: Patient) -> None:
        """Add what another source says of the same patient."""
        self.names |= other.names
        self.ids |= other.ids
        self.births |= other.births
        self.sexes |= other.sexes
        self.places |= other.places
        self.unread_births += other.unread_births


@dataclass(frozen=True)
class Measure:
    """A number with its unit as a source writes it.

    Attributes:
        what: name of the value, or the code (SYSTEM:VALUE) of what was measured.
        unit: UCUM; None if it is that of the value.
    """

    what: str
    number: str
    unit: str | None
    decimal: str = "."


@dataclass(frozen=True)
class Report:
    """What one source says of one study, identifiers and all.

    Attributes:
        patients: ids the patient goes by in this source; empty if the study alone tells.
        studies: study instance UIDs or accession numbers; empty if the patient alone tells.
        text: the note.
        references: names, within ``source``, of resources that hold further ids of patient or study.
        source: the file, for ``references``.
        date: YYYYMMDD, "" without one; None if it is stated but cannot be read.
        person: what else it says of the patient.
        measures, findings: coded and measured facts.
        values: columns taken over as they are.
        file: origin of an image, volume, sound or waveform that belongs to it, or "".
        of_patient: it holds for all studies of the patient.
    """

    patients: tuple[str, ...]
    studies: tuple[str, ...]
    text: str
    origin: str
    references: tuple[str, ...] = ()
    source: str = ""
    date: str | None = ""
    person: Patient = field(default_factory=Patient)
    measures: tuple[Measure, ...] = ()
    findings: Findings = field(default_factory=Findings)
    values: Mapping[str, str | None] = field(default_factory=dict)
    file: str = ""
    of_patient: bool = False


def text_file(found: Found) -> Report | Skipped:
    """Read a ``.txt`` file as a report; it belongs to the study that its name states, or to the study of its folder."""
    try:
        if found.path.stat().st_size > MAX_NOTE_CHARACTERS * 4:
            return Skipped(found.origin, "text file too large for a note")
        text = decode(found.path.read_bytes())
    except Undecodable as error:
        return Skipped(found.origin, str(error))
    except OSError as error:
        return Skipped(found.origin, f"cannot be read ({error.strerror})")
    if "\0" in text:
        return Skipped(found.origin, "not a text file")
    return Report((), (found.stem,), text[:MAX_NOTE_CHARACTERS], found.origin)


def plain(markup: str) -> str:
    """The text of an HTML fragment: ends of blocks become line ends, entities become characters."""
    broken = re.sub(r"(?i)<(?:br|/p|/div|/li|/tr|/h\d)\b[^<>]*>", "\n", markup)
    return html.unescape(re.sub(r"<[^<>]*>", " ", broken)).strip()


EXCEL = "excel"  # date_format of cells that hold serial numbers, days since 1899-12-30
_YEAR_FIRST = re.compile(r"\s*(\d{4})([-./]?)(\d{1,2})\2(\d{1,2})(?!\d{1,3}\b)")
_GERMAN = re.compile(r"\s*(\d{1,2})\.\s?(\d{1,2})\.\s?(\d{4})\b")


def date(text: str, form: str = "") -> str | None:
    """The date, YYYYMMDD, that a text states: "" if it is empty, None if it cannot be read for sure.

    Read are a year before month and day, as FHIR, HL7 and DICOM write, and day.month.year. ``03/09/2009`` may be
    March or September and ``39881`` a day of Excel's: for these ``form`` says what they are.

    Args:
        text: a date, and perhaps a time after it.
        form: as `datetime.strptime` has it (``%m/%d/%Y``), or `EXCEL`; "" for the forms above.
    """
    text = text.strip()
    if not text:
        return ""
    try:
        if form == EXCEL:
            return _eight_digits(EXCEL_ZERO + timedelta(days=int(float(text))))
        if form:
            return _by_form(text, form)
        if match := _YEAR_FIRST.match(text):
            year, _, month, day = match.groups()
            if not match[2] and len(month + day) != 4:
                return None
        elif match := _GERMAN.match(text):
            day, month, year = match.groups()
        else:
            return None
        return _eight_digits(datetime(int(year), int(month), int(day)))
    except (ValueError, OverflowError):
        return None


EXCEL_ZERO = datetime(1899, 12, 30)


def _by_form(text: str, form: str) -> str:
    """Raises `ValueError` if neither the text nor its first word is a date of that form."""
    try:
        day = datetime.strptime(text, form)
    except ValueError:
        day = datetime.strptime(text.split()[0], form)
    if "%y" in form and day > datetime.now():  # born in 45, not in 2045
        day = day.replace(year=day.year - 100)
    return _eight_digits(day)


def _eight_digits(day: datetime) -> str:
    return day.date().isoformat().replace("-", "")


def sex(text: str) -> set[str]:
    """The sex that a text states, as {"M"}, {"F"} or {"O"}; empty if its word is not known."""
    return {_SEX[word]} if (word := text.strip().casefold()) in _SEX else set()
