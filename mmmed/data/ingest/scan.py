"""First pass over the sources: what each file is, whose it is, and what is left out for what reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydicom import Dataset
from pydicom.uid import UID

from mmmed.data.deidentify.header import identifiers, patient_key
from mmmed.data.dicom.file import is_dicom, open_dicom
from mmmed.data.dicom.report import report_text
from mmmed.data.dicom.series import Slice, slices_of
from mmmed.data.ingest.options import IngestOptions
from mmmed.data.ingest.reports import Report, fhir_reports, table_rows, text_file
from mmmed.data.ingest.sources import Found, Skipped
from mmmed.errors import DataError

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_NO_IMAGES = {  # by the UID after the storage root; longer prefixes first
    "66.": "segmentation, registration or raw data",
    "66": "raw data",
    "481.": "radiotherapy object",
    "11.": "presentation state",
    "88.59": "key object selection",
    "9.": "waveform",
    "104.": "encapsulated document",
    "91.": "microscopy annotations",
    "77.1.6": "whole slide image",
    "78.": "ophthalmic measurement",
    "30": "parametric map",
}
_REPORTS = "88."
_VOLUME_MODALITIES = ("CT", "MR", "PT", "NM")
_NO_VOLUME_IMAGES = "LOCALIZER"
_RESEARCH_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".nii", ".nii.gz")


@dataclass(frozen=True)
class Instance:
    """A DICOM image, as far as its header tells."""

    found: Found
    sop: str
    study: str
    series: str
    accession: str
    patient: str
    facts: dict[str, str]
    slices: tuple[Slice, ...] = ()


@dataclass
class Patient:
    """What is known of a patient and must not survive in notes."""

    names: set[str] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    births: set[str] = field(default_factory=set)
    sexes: set[str] = field(default_factory=set)


@dataclass
class Scan:
    """Everything the sources hold."""

    instances: list[Instance] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    patients: dict[str, Patient] = field(default_factory=lambda: defaultdict(Patient))


def scan(files: Iterable[Found | Skipped], options: IngestOptions) -> Scan:
    """Read the headers of all files; nothing in one file stops the others."""
    result = Scan()
    seen: set[str] = set()
    loose: list[Found] = []
    for file in files:
        if isinstance(file, Skipped):
            result.skipped.append(file)
        elif file.path.name.lower().endswith(_RESEARCH_SUFFIXES):
            loose.append(file)
        else:
            try:
                _scan_file(file, options, result, seen)
            except (DataError, OSError) as error:
                result.skipped.append(Skipped(file.origin, str(error).removeprefix(f"{file.path}: ")))
            except Exception as error:  # a header can hold anything
                result.skipped.append(Skipped(file.origin, f"damaged ({type(error).__name__})"))
    named = {report.image.resolve() for report in result.reports if report.image is not None}
    result.skipped += [
        Skipped(file.origin, "image that no row of a table names")
        for file in loose
        if file.path.resolve() not in named
    ]
    return result


def _scan_file(file: Found, options: IngestOptions, result: Scan, seen: set[str]) -> None:
    suffix = file.path.suffix.lower()
    if suffix in (".csv", ".parquet"):
        if options.table is None:
            result.skipped.append(Skipped(file.origin, "table: its columns are not named in the options"))
            return
        columns = options.table
        rows = table_rows(
            file, patient=columns.patient, study=columns.study, text=columns.text, image=columns.image,
            keep=columns.keep,
        )  # fmt: skip
        _sort(rows, result)
    elif suffix in (".json", ".ndjson"):
        _sort(fhir_reports(file), result)
    elif suffix == ".txt":
        _sort([text_file(file)], result)
    elif suffix in (".dcm", ".dicom", ".ima", "") or suffix[1:].isdigit() or is_dicom(file.path):
        _scan_dicom(file, result, seen)
    else:
        result.skipped.append(Skipped(file.origin, f"not a supported kind of file ({suffix})"))


def _sort(found: Iterable[Report | Skipped], result: Scan) -> None:
    for one in found:
        if isinstance(one, Skipped):
            result.skipped.append(one)
        else:
            result.reports.append(one)


def _scan_dicom(file: Found, result: Scan, seen: set[str]) -> None:
    dataset = open_dicom(file.path, pixels=False)
    sop_class, sop = str(dataset.SOPClassUID), str(dataset.get("SOPInstanceUID") or "")
    problem = _problem(dataset, sop_class, sop)
    if not problem and sop in seen:
        problem = "duplicate of an object already read"
    if problem:
        result.skipped.append(Skipped(file.origin, problem))
        return
    seen.add(sop)
    patient = patient_key(dataset)
    _learn_identifiers(result.patients[patient], dataset)
    study, accession = str(dataset.StudyInstanceUID), str(dataset.get("AccessionNumber") or "").strip()
    if sop_class.startswith(_STORAGE + _REPORTS):
        text = report_text(dataset)
        result.reports.append(Report((patient,), (study,), text, file.origin))
        return
    modality = str(dataset.get("Modality") or "OT")
    planar = modality not in _VOLUME_MODALITIES or _NO_VOLUME_IMAGES in (dataset.get("ImageType") or [])
    result.instances.append(
        Instance(
            file, sop, study, str(dataset.get("SeriesInstanceUID") or sop), accession, patient,
            _facts(dataset, modality), () if planar else tuple(slices_of(dataset, 0)),
        )
    )  # fmt: skip


def _problem(dataset: Dataset, sop_class: str, sop: str) -> str:
    """Why an object is not taken; "" if it is."""
    if sop_class.startswith(_STORAGE):
        rest = sop_class.removeprefix(_STORAGE)
        for prefix, kind in _NO_IMAGES.items():
            if rest == prefix or (prefix.endswith(".") and rest.startswith(prefix)):
                return f"{kind} ({UID(sop_class).name}): nothing to learn from"
    if not sop or not dataset.get("StudyInstanceUID"):
        return "no SOP or study instance UID: export it again"
    if not patient_key(dataset):
        return "no patient id: it cannot be kept apart from other patients"
    if "Rows" not in dataset and not sop_class.startswith(_STORAGE + _REPORTS):
        return f"no image ({UID(sop_class).name})"
    return ""


def _facts(dataset: Dataset, modality: str) -> dict[str, str]:
    """The few coded facts that go into the table of studies; ages above 89 are one group."""
    age = str(dataset.get("PatientAge") or "")
    years = str(min(90, int(age[:3]))) if age[-1:] == "Y" and age[:3].isdigit() else "0" if age else ""
    coded = {
        "modality": modality,
        "view": dataset.get("ViewPosition"),
        "body_part": dataset.get("BodyPartExamined"),
        "laterality": dataset.get("ImageLaterality") or dataset.get("Laterality"),
        "sex": dataset.get("PatientSex"),
    }
    facts = {name: str(value or "").strip().upper()[:16] for name, value in coded.items()}
    # Coded strings are capitals, digits and underscores; what is not may be anything.
    facts = {
        n: v if v.replace("_", "").replace(" ", "").isalnum() and v.isascii() else ""
        for n, v in facts.items()
    }
    return {**facts, "age": years, "study_date": str(dataset.get("StudyDate") or "")}


def _learn_identifiers(patient: Patient, dataset: Dataset) -> None:
    patient.ids.add(patient_key(dataset))
    if name := str(dataset.get("PatientName") or "").strip():
        patient.names.add(name)
    people = {str(e.value) for e in dataset.iterall() if e.VR == "PN" and e.value}
    patient.names |= people
    patient.ids |= identifiers(dataset) - people
    patient.births |= {str(dataset.get("PatientBirthDate") or "")} - {""}
    patient.sexes |= {str(dataset.get("PatientSex") or "")} - {"", "O"}
