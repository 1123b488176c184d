"""First pass over the sources: what each file is, whose it is, and what is left out for what reason."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydicom import Dataset
from pydicom.uid import UID

from mmmed.deidentify.header import is_copy, names_and_others, patient_key
from mmmed.deidentify.keys import SiteKey
from mmmed.deidentify.places import towns_in
from mmmed.dicom.charset import is_legible
from mmmed.dicom.file import is_dicom, open_dicom
from mmmed.dicom.header import text, texts
from mmmed.dicom.report import report_text
from mmmed.dicom.series import Slice, slices_of
from mmmed.errors import DataError
from mmmed.ingest.ccda import ccda_report
from mmmed.ingest.clips import is_clip
from mmmed.ingest.edf import EDF, person_of
from mmmed.ingest.fhir import Named, fhir_resources
from mmmed.ingest.options import IngestOptions
from mmmed.ingest.people import Identity, People, is_no_id, read_crosswalk
from mmmed.ingest.records import Patient, Report, date, text_file
from mmmed.ingest.signals import signal_files
from mmmed.ingest.sources import Found, Skipped, absolute
from mmmed.ingest.structured import coded_content
from mmmed.ingest.tables import TABLES, table_rows

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_NO_IMAGES = {  # by the UID after the storage root; longer prefixes first
    "66.": "segmentation, registration or raw data",
    "66": "raw data",
    "481.": "radiotherapy object",
    "11.": "presentation state",
    "88.59": "key object selection",
    "9.4.1": "dictation: a voice tells who speaks",
    "104.": "encapsulated document",
    "91.": "microscopy annotations",
    "77.1.6": "whole slide image",
    "78.": "ophthalmic measurement",
    "30": "parametric map",
}
_REPORTS = "88."
_WAVEFORMS, _AUDIO = "9.", "9.4.2"
_VOLUME_MODALITIES = ("CT", "MR", "PT", "NM")
_SLICES = ("CT", "MR", "PT")  # the images of which are slices, unless they say otherwise
_STACKED = {_STORAGE + rest for rest in ("2", "4", "128")}  # CT, MR, PET image storage
_NO_VOLUME_IMAGES = "LOCALIZER"
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".nii", ".nii.gz")
SOUNDS = (".wav", ".flac", ".mp3")
WFDB_HEADER, _WFDB_SIGNALS = ".hea", (".dat", ".mat")

_NOBODY = (
    "no patient id (or a word for none): name it and its patient in a table, or it cannot be kept apart from other "
    "patients"
)
_SHARED = (
    "study that is under several patients: correct the patient id, or name the ids as one in the crosswalk"
)
_SEVERAL_ISSUERS = "patient id that several issuers gave, without its issuer: name the issuer in the header"
_FOREIGN = (
    "de-identified copy that this site key did not make: its patient would pass for another than the one of the "
    "originals; use the originals, or the key file of then (--key)"
)

Kind = Literal["image", "waveform", "audio"]


@dataclass(frozen=True)
class Instance:
    """What the header says of a DICOM image or waveform."""

    found: Found
    sop: str
    study: str
    series: str
    accession: str
    patient: str
    facts: dict[str, str]
    slices: tuple[Slice, ...] = ()
    kind: Kind = "image"
    issuer: str = ""
    scout: bool = False
    stacked: bool = False  # what should be a slice of a volume
    clip: bool = False  # of several frames that are no slices


@dataclass
class Scan:
    """The contents of all sources.

    Attributes:
        instances, reports: DICOM objects, and what else is said of studies.
        named: FHIR resources by the names that others refer to them with.
        files: images, sounds and waveforms of which a table or a header says whose they are; by absolute origin.
        people: who is one patient.
        patients: what headers say of patients, by the names that `people` gives them.
        undecided: names of studies that are under several patients.
        files_found: origins of all files.
        read: origins of those of which something other than an image or a signal was taken.
        unusable: column -> why how many headers do not tell it.
    """

    instances: list[Instance] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    named: list[Named] = field(default_factory=list)
    files: dict[str, Found] = field(default_factory=dict)
    patients: dict[str, Patient] = field(default_factory=lambda: defaultdict(Patient))
    people: People = field(default_factory=People)
    undecided: set[str] = field(default_factory=set)
    files_found: list[str] = field(default_factory=list)
    read: set[str] = field(default_factory=set)
    unusable: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def file(self, origin: str) -> Found | None:
        """The file that a table or record names, or None; the name of a WFDB record may lack its ending."""
        return self.files.get(absolute(origin)) or self.files.get(absolute(origin) + WFDB_HEADER)

    def beside(self, file: Found, name: str) -> Found | None:
        """The file that ``file`` names by a path relative to its own folder, or None."""
        return self.file(str(Path(file.origin).parent / name))


def scan(files: Iterable[Found | Skipped], options: IngestOptions, key: SiteKey) -> Scan:
    """Read the headers of all files; an unreadable file is skipped and does not stop the others.

    Raises `ConfigError` if the crosswalk cannot be read.
    """
    result = Scan()
    seen: set[str] = set()
    for file in files:
        if isinstance(file, Skipped):
            result.skipped.append(file)
        else:
            result.files_found.append(file.origin)
            told = len(result.reports) + len(result.named)
            try:
                _scan_file(file, options, key, result, seen)
            except (DataError, OSError) as error:
                # The path may be that of an unpacked copy, which is gone when somebody reads the reason.
                result.skipped.append(Skipped(file.origin, str(error).removeprefix(f"{file.path}: ")))
            except Exception as error:  # a header can hold anything
                result.skipped.append(Skipped(file.origin, f"damaged ({type(error).__name__})"))
            if len(result.reports) + len(result.named) > told:
                result.read.add(file.origin)
    _place_loose_files(result)
    _settle_patients(result, read_crosswalk(Path(options.crosswalk)) if options.crosswalk else {})
    return result


def _settle_patients(result: Scan, crosswalk: Mapping[Identity, str]) -> None:
    """Name every instance's patient, and leave out those whose patient cannot be told."""
    for report in result.reports:
        ids = [Identity(one) for one in report.patients if one]
        result.people.hear(ids, report.person.called, next(iter(report.person.births), ""))
    for named in result.named:
        if named.person is not None:
            birth = next(iter(named.person.births), "")
            result.people.hear([Identity(one) for one in named.ids], named.person.called, birth)
    result.patients.update(result.people.settle(crosswalk))
    kept = []
    for one in result.instances:
        patient = result.people.patient(Identity(one.patient, one.issuer))
        if patient:
            kept.append(replace(one, patient=patient))
        else:
            result.skipped.append(Skipped(one.found.origin, _SEVERAL_ISSUERS))
    result.instances = kept


def leave_out_undecided(result: Scan) -> None:
    """Leave out studies that are under several patients, with what reports say of them: either may be theirs."""
    whose: dict[str, set[str]] = defaultdict(set)
    for one in result.instances:
        whose[one.study].add(result.people.unit(one.patient))
    for one in result.instances:
        if len(whose[one.study]) > 1:
            result.undecided |= {one.study, one.accession} - {""}
            result.skipped.append(Skipped(one.found.origin, _SHARED))
    result.instances = [one for one in result.instances if len(whose[one.study]) == 1]


def _place_loose_files(result: Scan) -> None:
    """Sounds and waveforms that no table names may be named by their study, or lie in its folder."""
    wanted = {id(found) for report in result.reports if report.file and (found := result.file(report.file))}
    wanted |= {
        id(found)
        for file in result.files.values()
        if file.origin.lower().endswith(WFDB_HEADER)
        for name in signal_files(file)
        if (found := result.beside(file, name))
    }
    for file in result.files.values():
        name = file.origin.lower()
        if id(file) in wanted:
            continue
        if name.endswith(_PICTURES):
            result.skipped.append(Skipped(file.origin, "image that no row of a table names"))
        elif name.endswith((*SOUNDS, WFDB_HEADER, EDF)):
            result.reports.append(Report((), (file.stem,), "", file.origin, file=file.origin))
        elif name.endswith(_WFDB_SIGNALS):
            result.skipped.append(Skipped(file.origin, "signals that no WFDB header among the sources names"))
        else:
            result.skipped.append(Skipped(file.origin, _NOBODY))
    for report in result.reports:
        if report.file.lower().endswith(EDF) and (recording := result.file(report.file)):
            report.person.learn(person_of(recording))


def _scan_file(file: Found, options: IngestOptions, key: SiteKey, result: Scan, seen: set[str]) -> None:
    name = file.origin.lower()
    suffix = Path(name).suffix
    # Exports give DICOM objects any ending, so that a file is looked into before its name is believed.
    if name.endswith((*_PICTURES, *SOUNDS, EDF, WFDB_HEADER, *_WFDB_SIGNALS)) and not is_dicom(file.path):
        result.files.setdefault(absolute(file.origin), file)
    elif suffix in TABLES:
        table = options.table_of(Path(file.origin).name)
        if table is None:
            result.skipped.append(
                Skipped(file.origin, "table: no [[tables]] entry says what its columns are")
            )
            return
        labels = [one.column for one in options.labels.values() if one.column]
        _sort(table_rows(file, table, labels), result)
    elif suffix in (".json", ".ndjson"):
        _sort(fhir_resources(file), result)
    elif suffix in (".xml", ".cda"):
        _sort([ccda_report(file)], result)
    elif suffix == ".txt":
        _sort([text_file(file)], result)
    elif suffix in (".dcm", ".dicom", ".ima", "") or suffix[1:].isdigit() or is_dicom(file.path):
        _scan_dicom(file, key, result, seen)
    else:
        result.skipped.append(Skipped(file.origin, f"not a supported kind of file ({suffix})"))


def _sort(found: Iterable[Report | Named | Skipped], result: Scan) -> None:
    for one in found:
        if isinstance(one, Skipped):
            result.skipped.append(one)
        elif isinstance(one, Named):
            result.named.append(one)
        else:
            result.reports.append(one)


def _scan_dicom(file: Found, key: SiteKey, result: Scan, seen: set[str]) -> None:
    dataset = open_dicom(file.path, pixels=False)
    sop_class, sop = text(dataset, "SOPClassUID"), text(dataset, "SOPInstanceUID")
    problem = _problem(dataset, sop_class, sop)
    if not problem and is_copy(dataset) and not key.made(patient_key(dataset)):
        problem = _FOREIGN
    if not problem and sop in seen:
        problem = "duplicate of an object already read"
    if problem == _NOBODY and _kind(sop_class) == "image":  # a table may still say whose it is
        result.files.setdefault(absolute(file.origin), file)
        return
    if problem:
        result.skipped.append(Skipped(file.origin, problem))
        return
    seen.add(sop)  # of what is taken alone: a rejected copy must not hide a good one
    patient, *others = patient_ids(dataset)
    whose = result.people.meet(
        patient,
        others,
        name := text(dataset, "PatientName"),
        date(text(dataset, "PatientBirthDate")) or "",
    )
    _learn_identifiers(whose, dataset, [patient, *others], name)
    if not is_legible(name):
        result.unusable["name"][
            "headers with characters that were lost: notes may hold it (SpecificCharacterSet)"
        ] += 1
    elif not name.strip("^ "):
        result.unusable["name"]["headers without the patient's name: notes may hold it"] += 1
    study, accession = text(dataset, "StudyInstanceUID"), text(dataset, "AccessionNumber")
    if sop_class.startswith(_STORAGE + _REPORTS):
        findings, measures = coded_content(dataset)
        result.reports.append(
            Report(
                (patient.id,), (study,), report_text(dataset), file.origin,
                date=date(text(dataset, "StudyDate")),
                findings=findings, measures=tuple(measures),
            )
        )  # fmt: skip
        return
    modality = text(dataset, "Modality") or "OT"
    # A localiser lies across the slices of its series, which would then not be a regular volume.
    scout = _NO_VOLUME_IMAGES in texts(dataset, "ImageType")
    planar = modality not in _VOLUME_MODALITIES or scout
    result.instances.append(
        Instance(
            file, sop, study, text(dataset, "SeriesInstanceUID") or sop, accession, patient.id,
            _facts(dataset, modality, result.unusable), () if planar else tuple(slices_of(dataset, 0)),
            _kind(sop_class), patient.issuer, scout, modality in _SLICES and not scout and sop_class in _STACKED,
            modality not in _VOLUME_MODALITIES and _kind(sop_class) == "image" and is_clip(dataset),
        )
    )  # fmt: skip


def patient_ids(dataset: Dataset) -> list[Identity]:
    """The ids that a header states of its patient, PatientID first (PS3.3 C.2.2, C.2.3)."""

    def issuer(item: Dataset) -> str:
        if said := text(item, "IssuerOfPatientID"):
            return said
        if "IssuerOfPatientIDQualifiersSequence" not in item or not item.IssuerOfPatientIDQualifiersSequence:
            return ""
        return text(item.IssuerOfPatientIDQualifiersSequence[0], "UniversalEntityID")

    given = issuer(dataset)
    # one id cannot hold a backslash: what is parsed as several values are several ids of the patient
    found = [Identity(one, given) for one in texts(dataset, "PatientID")]
    found += [Identity(one, given) for one in texts(dataset, "OtherPatientIDs")]
    for item in (dataset.OtherPatientIDsSequence or []) if "OtherPatientIDsSequence" in dataset else []:
        found += [Identity(one, issuer(item)) for one in texts(item, "PatientID")]
    return found


def _kind(sop_class: str) -> Kind:
    rest = sop_class.removeprefix(_STORAGE)
    if rest == sop_class or not rest.startswith(_WAVEFORMS):
        return "image"
    return "audio" if rest.startswith(_AUDIO) else "waveform"


def _problem(dataset: Dataset, sop_class: str, sop: str) -> str:
    """Why an object is not taken; "" if it is."""
    if sop_class.startswith(_STORAGE):
        rest = sop_class.removeprefix(_STORAGE)
        for prefix, kind in _NO_IMAGES.items():
            if rest == prefix or (prefix.endswith(".") and rest.startswith(prefix)):
                return f"{kind} ({UID(sop_class).name}): nothing to learn from"
    if not sop or not text(dataset, "StudyInstanceUID"):
        return "no SOP or study instance UID: export it again"
    is_report = sop_class.startswith(_STORAGE + _REPORTS)
    if _kind(sop_class) == "image" and "Rows" not in dataset and not is_report:
        return f"no image ({UID(sop_class).name})"
    return _NOBODY if is_no_id(patient_key(dataset)) else ""


def _facts(dataset: Dataset, modality: str, unusable: dict[str, Counter[str]]) -> dict[str, str]:
    """The few coded facts that go into the table of studies; ages above 89 are one group. What cannot be read is
    empty and counted."""
    coded = {
        "modality": modality,
        "view": text(dataset, "ViewPosition"),
        "body_part": text(dataset, "BodyPartExamined"),
        "laterality": text(dataset, "ImageLaterality") or text(dataset, "Laterality"),
        "sex": text(dataset, "PatientSex"),
    }
    facts = {name: value.strip().upper()[:16] for name, value in coded.items()}
    # Coded strings are capitals, digits and underscores; what is not may be anything.
    facts = {
        n: v if v.replace("_", "").replace(" ", "").isalnum() and v.isascii() else ""
        for n, v in facts.items()
    }
    day, years = date(text(dataset, "StudyDate")), _years(text(dataset, "PatientAge"))
    if day is None:
        unusable["study_date"]["unknown, StudyDate is no date (YYYYMMDD)"] += 1
    if years is None:
        unusable["age"]["not taken, PatientAge is no age (045Y)"] += 1
    return {**facts, "age": years or "", "study_date": day or ""}


def _years(age: str) -> str | None:
    """Whole years of an age string (PS3.5 6.2, zeros optional), at most 90; "" if it is empty, None if unreadable."""
    if not age.strip():
        return ""
    match = re.fullmatch(r"\s*(\d{1,3})([DWMY])\s*", age.upper())
    return str(min(_OLDEST, int(match[1]) // _A_YEAR[match[2]])) if match else None


_ADDRESSES = ("InstitutionName", "InstitutionAddress", "PatientAddress")
_OLDEST = 90  # 45 CFR 164.514(b)(2)(i)(C)
_A_YEAR = {"Y": 1, "M": 12, "W": 52, "D": 365}


def _learn_identifiers(patient: Patient, dataset: Dataset, ids: Iterable[Identity], name: str) -> None:
    patient.ids |= {one.id for one in ids}
    # Physicians and operators too: notes name them, and none of them may stay.
    people, others = names_and_others(dataset)
    patient.names |= people | ({name} - {""})
    patient.ids |= others - people
    patient.places |= {town for keyword in _ADDRESSES for town in towns_in(text(dataset, keyword))}
    patient.born(text(dataset, "PatientBirthDate"))
    patient.sexes |= {text(dataset, "PatientSex")} - {"", "O"}
