"""What reports say of each study: notes without identifiers, values in their units, labels."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import regex

from mmmed.decoding import Undecodable
from mmmed.deidentify.entities import EntityModel
from mmmed.deidentify.note_scrubbing import Scrubber
from mmmed.errors import ConfigError
from mmmed.ingest.codes import Findings
from mmmed.ingest.legible import legible
from mmmed.ingest.match import StudyIndex
from mmmed.ingest.options import IngestOptions, ValueOptions
from mmmed.ingest.records import Measure, Report
from mmmed.ingest.scan import Scan
from mmmed.ingest.sections import SLOWEST, Certainty, finding, has_section, select_sections
from mmmed.ingest.sources import Skipped
from mmmed.ingest.units import NotUsable, convert, number

_OLDEST = 90  # 45 CFR 164.514(b)(2)(i)(C)

_LABEL = {Certainty.STATED: 1, Certainty.DENIED: 0, "empty": None, "positive": 1, "negative": 0}


@dataclass
class StudyNotes:
    """What the reports of one study say.

    Attributes:
        texts: notes without identifiers.
        values: kept columns, numbers in their units, and labels.
        findings: coded findings.
        said: label -> the most that reports say of it.
        date: YYYYMMDD of the study, or "".
    """

    patient: str
    texts: list[str] = field(default_factory=list)
    values: dict[str, object] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    said: dict[str, Certainty] = field(default_factory=dict)
    date: str = ""

    @property
    def text(self) -> str:
        return "\n\n".join(dict.fromkeys(self.texts))


@dataclass
class Notes:
    """Notes of all studies by study instance UID (or what stands for it).

    Attributes:
        files: images, sounds and waveforms that reports name, with their study.
        replaced: identifiers replaced in notes, by kind.
        unusable: column -> why how many numbers are left empty, or are limits of measurement.
    """

    studies: dict[str, StudyNotes] = field(default_factory=dict)
    files: list[tuple[Report, str]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    replaced: Counter[str] = field(default_factory=Counter)
    unusable: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))


def attach(scan: Scan, options: IngestOptions) -> Notes:
    """Find the study of every report. A report whose patient and study contradict each other is left out."""
    index = StudyIndex(scan, options.nearest_days)
    notes = Notes()
    matched: list[tuple[Report, str, str]] = []
    # What makes a study goes first, so that what only belongs to one finds it.
    for report in sorted(scan.reports, key=lambda one: not (one.text or one.file or one.studies)):
        found = index.match(report)
        if isinstance(found, str):
            notes.skipped.append(Skipped(report.origin, found))
            continue
        patient, studies = found
        scan.patients[patient].learn(index.person(report))
        for study in studies:
            matched.append((report, patient, study))
            notes.studies.setdefault(study, StudyNotes(patient, date=index.date(study)))
    reader = _Reader(scan, options, notes)
    for report, patient, study in matched:
        try:
            reader.read(report, patient, study)
        except ConfigError:  # of the site's file, not of this report
            raise
        except Exception as error:  # what is written in a report can be anything
            notes.skipped.append(Skipped(report.origin, f"cannot be read ({type(error).__name__})"))
            continue
        if report.file and not index.is_object(report.file):
            notes.files.append((report, study))
    for entry in notes.studies.values():
        entry.texts = [text for text in entry.texts if text]
        for column, rule in options.labels.items():
            if column in entry.said:
                entry.values[column] = _LABEL[
                    rule.uncertain if entry.said[column] is Certainty.OPEN else entry.said[column]
                ]
                if entry.said[column] is Certainty.OPEN:
                    notes.unusable[column][
                        f"studies whose report leaves it open: {rule.uncertain} (labels.NAME.uncertain)"
                    ] += 1
            elif rule.codes:
                entry.values[column] = entry.findings.label(rule.codes)
            elif rule.column:
                entry.values[column] = entry.values.get(rule.column)
    return notes


class _Reader:
    """Adds what reports say, one after another, to the studies that they belong to."""

    def __init__(self, scan: Scan, options: IngestOptions, notes: Notes) -> None:
        self._scan, self._options, self._notes = scan, options, notes
        self._scrubbers: dict[str, Scrubber] = {}
        self._model = EntityModel(Path(options.name_model)) if options.name_model else None
        self._patterns = {
            column: (regex.compile(rule.text, regex.I), rule.sections)
            for column, rule in options.labels.items()
            if rule.text
        }
        self._columns = {code: column for column, value in options.values.items() for code in value.codes}

    def read(self, report: Report, patient: str, study: str) -> None:
        """Add a report's note, values, measures and findings to its study."""
        entry = self._notes.studies[study]
        entry.findings |= report.findings
        if report.text.strip():
            try:
                self._read_text(legible(report.text), patient, entry)
            except Undecodable as error:
                self._notes.skipped.append(Skipped(report.origin, str(error)))
        for column, value in report.values.items():
            if value is not None or column not in entry.values:
                entry.values[column] = value if _is_plain(value) else self._scrub(_legible(value), patient)
        for measure in report.measures:
            column = (
                measure.what if measure.what in self._options.values else self._columns.get(measure.what, "")
            )
            if column:
                self._read_measure(measure, column, entry)

    def _read_text(self, text: str, patient: str, entry: StudyNotes) -> None:
        for column, (pattern, sections) in self._patterns.items():
            try:
                if not has_section(text, sections):
                    self._notes.unusable[column][
                        "reports without the section of the label: it is not read from them"
                    ] += 1
                    continue
                said = finding(select_sections(text, sections), pattern)
            except TimeoutError as error:
                raise ConfigError(
                    f"labels.{column}.text: {pattern.pattern!r} takes more than {SLOWEST:g} s on one sentence of a "
                    "report; write it without repetition within repetition, such as (a|aa)+"
                ) from error
            entry.said[column] = max(said, entry.said.get(column, said))
        entry.texts.append(self._scrub(select_sections(text, self._options.sections), patient).strip())

    def _read_measure(self, measure: Measure, column: str, entry: StudyNotes) -> None:
        if not measure.number.strip():
            return
        counts = self._notes.unusable[column]
        try:
            value, limit = _in_units(measure, self._options.values[column])
        except NotUsable as error:
            counts[f"left empty, {error}"] += 1
            return
        counts["a limit of measurement, taken as the value"] += limit
        entry.values[column] = min(value, float(_OLDEST)) if column == "age" else value

    def _scrub(self, text: str, patient: str) -> str:
        if patient not in self._scrubbers:
            known = self._scan.patients[patient]
            self._scrubbers[patient] = Scrubber(
                names=set(map(_legible, known.names)),
                ids={*known.ids, patient},
                dates=known.births,
                places=known.places,
                model=self._model,
            )
        scrubbed = self._scrubbers[patient].scrub(text)
        self._notes.replaced += scrubbed.counts
        return scrubbed.text


def _in_units(measure: Measure, wanted: ValueOptions) -> tuple[float, bool]:
    """The number in the unit of the table of studies, and whether it is a limit of measurement."""
    value, limit = number(measure.number, measure.decimal)
    if measure.unit in wanted.factors:
        value *= wanted.factors[measure.unit]
    elif measure.unit is not None:
        value = convert(value, measure.unit, wanted.unit, wanted.molar_mass)
    low, high = wanted.range
    if not low <= value <= high:
        raise NotUsable("outside the possible range")
    return value, limit


def _legible(value: object) -> str:
    """A kept cell as text; "" if it cannot be read."""
    try:
        return legible(str(value))
    except Undecodable:
        return ""


def _is_plain(value: object) -> bool:
    """Whether a cell is empty or a number too short for an identifier."""
    return value is None or bool(re.fullmatch(r"[+-]?\d{0,5}\.?\d{1,5}", str(value)))
