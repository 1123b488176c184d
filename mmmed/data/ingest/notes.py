"""Which report belongs to which study, scrubbed and cut to the wanted sections."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from mmmed.data.deidentify.notes import Scrubber
from mmmed.data.ingest.options import IngestOptions
from mmmed.data.ingest.reports import Report
from mmmed.data.ingest.scan import Scan
from mmmed.data.ingest.sections import finding_stated, select_sections
from mmmed.data.ingest.sources import Skipped


@dataclass
class StudyNotes:
    """What the reports of one study say: ``text`` without identifiers, ``values`` of tables and labels."""

    patient: str
    texts: list[str] = field(default_factory=list)
    values: dict[str, object] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "\n\n".join(dict.fromkeys(self.texts))


@dataclass
class Notes:
    """Notes of all studies by study instance UID (or what stands for it), and what was replaced in them."""

    studies: dict[str, StudyNotes] = field(default_factory=dict)
    images: list[tuple[Report, str]] = field(default_factory=list)  # table images with their study
    skipped: list[Skipped] = field(default_factory=list)
    replaced: Counter[str] = field(default_factory=Counter)


def attach(scan: Scan, options: IngestOptions) -> Notes:
    """Find the study of every report. One whose patient and study contradict each other is left out."""
    index = _Index(scan)
    notes = Notes()
    scrubbers: dict[str, Scrubber] = {}
    patterns = {column: re.compile(pattern, re.I) for column, pattern in options.labels.items()}
    for report in scan.reports:
        found = index.study_of(report)
        if isinstance(found, str):
            notes.skipped.append(Skipped(report.origin, found))
            continue
        patient, study = found
        if patient not in scrubbers:
            known = scan.patients[patient]
            scrubbers[patient] = Scrubber(names=known.names, ids={*known.ids, patient}, dates=known.births)
        entry = notes.studies.setdefault(study, StudyNotes(patient))
        if report.text.strip():
            for column, pattern in patterns.items():
                entry.values[column] = int(
                    finding_stated(report.text, pattern) or entry.values.get(column) == 1
                )
            scrubbed = scrubbers[patient].scrub(select_sections(report.text, options.sections))
            entry.texts.append(scrubbed.text.strip())
            notes.replaced += scrubbed.counts
        for column, value in report.values.items():
            entry.values[column] = value if _is_plain(value) else scrubbers[patient].scrub(str(value)).text
        if report.image is not None:
            notes.images.append((report, study))
    for entry in notes.studies.values():
        entry.texts = [text for text in entry.texts if text]
    return notes


def _is_plain(value: object) -> bool:
    """Whether a cell is empty, a number or a short code, in which nothing needs scrubbing."""
    return value is None or bool(re.fullmatch(r"[+-]?\d*\.?\d+(?:[eE][+-]?\d+)?|[A-Za-z_]{1,8}", str(value)))


class _Index:
    """Studies by every name that a report may use for them."""

    def __init__(self, scan: Scan) -> None:
        self.patient_of = {one.study: one.patient for one in scan.instances}
        self.studies_of: dict[str, set[str]] = defaultdict(set)
        self._named: dict[str, set[str]] = defaultdict(set)
        self._folders: dict[Path, set[str]] = defaultdict(set)
        for one in scan.instances:
            self.studies_of[one.patient].add(one.study)
            self._named[one.study].add(one.study)
            if one.accession:
                self._named[one.accession].add(one.study)
            self._folders[one.found.path.parent].add(one.study)

    def study_of(self, report: Report) -> tuple[str, str] | str:
        """(patient, study) of a report, or the reason why there is none."""
        named = set().union(*(self._named.get(name, set()) for name in report.studies))
        if len(named) > 1:
            return "report that names several studies"
        if not named and not report.patients:
            named = self._folders.get(Path(report.origin).parent, set())
            if len(named) != 1:
                return "text file whose folder holds no study, or several: name it by its accession number"
        if named:
            [study] = named
            patient = self.patient_of[study]
            if report.patients and patient not in report.patients:
                return "report that names another patient than its study has"
            return patient, study
        known = [patient for patient in report.patients if patient in self.studies_of]
        if known and not report.studies and len(self.studies_of[known[0]]) == 1:
            return known[0], next(iter(self.studies_of[known[0]]))
        if known and not report.studies:
            return "report that names no study, of a patient with several"
        patient = (known or [name for name in report.patients if name] or [""])[0]
        if not patient:
            return "row or report without a patient id"
        return patient, report.studies[0] if report.studies else f"{patient}\0{report.origin}"
