"""What sources say of patients and studies, in one form whatever they are written in; and plain text files."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

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
    """What sources say of a patient; names, ids and birth dates must not survive in notes."""

    names: set[str] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    births: set[str] = field(default_factory=set)
    sexes: set[str] = field(default_factory=set)

    def learn(self, other: Patient) -> None:
        """Add what another source says of the same patient."""
        self.names |= other.names
        self.ids |= other.ids
        self.births |= other.births
        self.sexes |= other.sexes


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
        date: YYYYMMDD, or "".
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
    date: str = ""
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
        content = found.path.read_bytes()
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    except OSError as error:
        return Skipped(found.origin, f"cannot be read ({error.strerror})")
    if "\0" in text:
        return Skipped(found.origin, "not a text file")
    return Report((), (found.stem,), text[:MAX_NOTE_CHARACTERS], found.origin)


def plain(markup: str) -> str:
    """The text of an HTML fragment: ends of blocks become line ends, entities become characters."""
    broken = re.sub(r"(?i)<(?:br|/p|/div|/li|/tr|/h\d)\b[^<>]*>", "\n", markup)
    return html.unescape(re.sub(r"<[^<>]*>", " ", broken)).strip()


def date(text: str) -> str:
    """The date, YYYYMMDD, of a text as FHIR, HL7, DICOM or a German table writes it; "" if the text is no date."""
    if match := re.match(r"\s*(\d{4})-?(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])(?!\d{1,3}\b)", text):
        return match[1] + match[2] + match[3]
    if match := re.match(r"\s*(\d{1,2})\.(\d{1,2})\.(\d{4})\b", text):
        return f"{match[3]}{int(match[2]):02}{int(match[1]):02}"
    return ""


def sex(text: str) -> set[str]:
    """The sex that a text states, as {"M"}, {"F"} or {"O"}; empty if its word is not known."""
    return {_SEX[word]} if (word := text.strip().casefold()) in _SEX else set()
