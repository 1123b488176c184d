"""Which study a report belongs to."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from pathlib import Path

from mmmed.ingest.fhir import Named
from mmmed.ingest.records import Patient, Report
from mmmed.ingest.scan import Scan
from mmmed.ingest.sources import absolute

Match = tuple[str, tuple[str, ...]]


class StudyIndex:
    """An index of studies by every name that a report may use for them.

    Images make studies; so do notes, and rows that name a study or a file. What is measured or coded without
    naming one is matched last: to all studies of its patient, or to the nearest in time.
    """

    def __init__(self, scan: Scan, nearest_days: int) -> None:
        self._nearest_days = nearest_days
        self._people, self._undecided = scan.people, scan.undecided
        self._dates: dict[str, str] = {}
        self._patient_of: dict[str, str] = {}
        self._studies_of: dict[str, dict[str, None]] = defaultdict(dict)
        self._names: dict[str, set[str]] = defaultdict(set)
        self._folders: dict[Path, set[str]] = defaultdict(set)
        self._objects: dict[str, str] = {}
        self._resources: dict[str, list[Named]] = defaultdict(list)
        for one in scan.instances:
            self._add(one.study, one.patient, one.facts["study_date"])
            self._names[one.study].add(one.study)
            if one.accession:
                self._names[one.accession].add(one.study)
            self._folders[Path(one.found.origin).parent].add(one.study)
            self._objects[absolute(one.found.origin)] = one.study
        self._imaged = set(self._studies_of)
        for named in scan.named:
            self._resources[named.reference].append(named)

    def date(self, study: str) -> str:
        """Date of a study as YYYYMMDD, or "" if it is unknown."""
        return self._dates.get(study, "")

    def is_object(self, origin: str) -> bool:
        """Whether a file is a DICOM object that goes into the data set."""
        return absolute(origin) in self._objects

    def person(self, report: Report) -> Patient:
        """What a report, and the resources that it refers to, say of its patient."""
        known = Patient(ids={*report.patients, *report.studies} - {""})
        known.learn(report.person)
        for named in self._referred(report):
            known.ids |= set(named.ids)
            if named.person is not None:
                known.learn(named.person)
        return known

    def match(self, report: Report) -> Match | str:
        """The patient and studies of a report, or the reason as text why none fits."""
        patients, names = self._ids(report)
        if self._undecided & set(names):
            return "report of a study that is under several patients"
        named = set().union(*(self._names.get(name, set()) for name in names))
        if len(named) > 1 and patients:  # accession numbers of two systems may be alike
            named = {study for study in named if self._patient_of[study] in patients} or named
        if report.file and self.is_object(report.file):
            named.add(self._objects[absolute(report.file)])
        if len(named) > 1:
            return "report that names several studies"
        if not named and not patients:
            named = self._folders.get(Path(report.origin).parent, set())
            if len(named) != 1:
                return "file whose folder holds no study, or several: name it by its accession number"
        if named:
            [study] = named
            patient = self._patient_of[study]
            if patients and patient not in patients:
                return "report that names another patient than its study has"
            return patient, (study,)
        if any(len(self._people.patients(one)) > 1 for one in report.patients):
            return "names no study, and its patient id is that of several issuers"
        known = [one for one in patients if one in self._imaged] or [
            one for one in patients if one in self._studies_of
        ]
        patient = (known or [one for one in patients if one] or [""])[0]
        if not patient:
            return "row or report without a patient id"
        if names or ((report.text or report.file) and patient not in self._imaged):
            study = names[0] if names else f"{patient}\0{report.date or report.origin}"
            self._add(study, patient, report.date or "")
            self._names[study].add(study)
            return patient, (study,)
        return self._of_patient(patient, report)

    def _of_patient(self, patient: str, report: Report) -> Match | str:
        if report.date is None:
            return (
                "names no study, and its date cannot be read: state date_format in [[tables]], or correct it"
            )
        studies = tuple(self._studies_of.get(patient, ()))
        if not studies:
            study = f"{patient}\0{report.date}"
            self._add(study, patient, report.date)
            return patient, (study,)
        if report.of_patient and not report.text and not report.file:
            return patient, studies
        day = report.date
        dated = [(_days(self._dates.get(study, ""), day), study) for study in studies]
        near = sorted((days, study) for days, study in dated if days is not None)
        if near and near[0][0] <= self._nearest_days and [days for days, _ in near].count(near[0][0]) == 1:
            return patient, (near[0][1],)
        if near and near[0][0] > self._nearest_days:
            return f"names no study, and is more than {self._nearest_days} days from any (nearest_days)"
        if day and not near:
            return "names no study, and no study of its patient has a date to go by"
        if len(studies) == 1:
            return patient, studies
        return "report that names no study, of a patient with several"

    def _add(self, study: str, patient: str, date: str) -> None:
        self._patient_of.setdefault(study, patient)
        self._studies_of[patient].setdefault(study)
        if date:
            self._dates.setdefault(study, date)

    def _ids(self, report: Report) -> tuple[list[str], list[str]]:
        """Patients it may be of, and names of the study: those of the report, then those that it refers to."""
        patients, names = list(report.patients), list(report.studies)
        for reference in report.references:
            found = self._resolve(report.source, reference)
            kind, _, name = reference.rpartition("/")
            if any(one.person is not None for one in found):
                patients += [value for one in found for value in one.ids]
            elif kind.rpartition("/")[2] == "Patient":
                patients.append(name)
            names += [value for one in found if one.person is None for value in one.ids]
        known = [patient for one in patients for patient in (self._people.patients(one) if one else ("",))]
        return list(dict.fromkeys(known)), list(dict.fromkeys(names))

    def _referred(self, report: Report) -> list[Named]:
        return [one for reference in report.references for one in self._resolve(report.source, reference)]

    def _resolve(self, source: str, reference: str) -> list[Named]:
        """The resource of that name in the same file; or else in another, if there is only one."""
        if not reference.startswith("urn:"):
            reference = "/".join(reference.split("/")[-2:])  # absolute URLs name their server, too
        found = self._resources.get(reference, [])
        here = [one for one in found if one.source == source]
        return here or (found if len({one.ids for one in found}) == 1 else [])


def _days(one: str, other: str) -> int | None:
    try:
        return abs((datetime.strptime(one, "%Y%m%d") - datetime.strptime(other, "%Y%m%d")).days)
    except ValueError:
        return None
