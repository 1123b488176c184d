"""A prediction as DICOM Structured Report, TID 1500 "Measurement Report" (PS3.16), written by highdicom."""

from __future__ import annotations

import hashlib
import io

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    SourceImageForMeasurementGroup,
    TrackingIdentifier,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from mmmed.errors import DataError
from mmmed.reporting.told import NO_DIAGNOSIS, Statement, Told, plain

_SCHEME = "99MMMED"  # of codes that mmmed makes of a task's own words (PS3.16 section 8.1: 99 and a name)
_MAKER = "mmmed"
_MEANING, _CODE, _LABEL = 64, 16, 64  # characters of LO, SH, LO (PS3.5 section 6.2)
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip # type 2 of patient and study (PS3.3 C.7.1.1, C.7.2.1)


def structured_report(told: Told) -> bytes:
    """The report as a DICOM file: preliminary, partial and unverified, in a series of its own in the source's study.

    Who the patient is stands in it as it stands in the source.

    Raises:
        DataError: nothing that was read is a DICOM object that names its study, or the answer is a text.
    """
    if told.source is None:
        raise DataError(
            "a DICOM SR refers to the study that it is about, and no DICOM file was read: give a DICOM image, or take "
            "FHIR, which needs none"
        )
    if any(isinstance(one.value, str) for one in told.statements):
        raise DataError(
            "a measurement report (TID 1500) holds numbers, and this model writes a text: take FHIR"
        )
    source = _complete(told.source)
    report = ComprehensiveSR(
        evidence=[source],
        content=_content(told, source),
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=_MAKER,
        is_complete=False,
        is_final=False,
        is_verified=False,
    )
    report.SeriesDescription = "Model output, not a diagnosis"
    report.ManufacturerModelName = plain(told.model)[:_LABEL]
    report.SoftwareVersions = told.version
    file = io.BytesIO()
    report.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _complete(source: Dataset) -> Dataset:
    """What a report takes from its source; what may be empty there may also be missing."""
    if absent := [name for name in _NEEDED if not source.get(name)]:
        raise DataError(f"the DICOM image has no {absent[0]}, to which a report would refer: export it again")
    known = Dataset()
    for element in source:
        if element.tag.group <= 0x20 and not element.tag.is_private:
            known[element.tag] = element
    for name in _EMPTY:
        if name not in known:
            setattr(known, name, "")
    return known


def _content(told: Told, source: Dataset) -> MeasurementReport:
    device = DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=[_MAKER, told.model]),
        name=plain(told.model)[:_LABEL],
        manufacturer_name=_MAKER,
        model_name=plain(told.model)[:_LABEL],
    )
    further = [f"{one.about}: {one.note}" for one in told.statements if one.note]
    long = [f"{_code(one).value}: {one.about}" for one in told.statements if len(plain(one.about)) > _MEANING]
    algorithm = AlgorithmIdentification(
        name=told.model,
        version=told.version,
        parameters=[plain(note) for note in (*told.notes, *further, *long)],
        manufacturer=_MAKER,
    )
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=generate_uid(), identifier=NO_DIAGNOSIS),
        algorithm_id=algorithm,
        measurements=[
            Measurement(name=_code(one), value=float(one.value), unit=codes.UCUM.NoUnits)
            for one in told.statements
        ],
        source_images=[SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID)],
    )
    return MeasurementReport(
        observation_context=ObservationContext(
            observer_device_context=ObserverContext(
                observer_type=codes.DCM.Device, observer_identifying_attributes=device
            )
        ),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=[group],
    )


def _code(one: Statement) -> CodedConcept:
    """A code for what a number is about: equal words have equal codes."""
    about = plain(f"probability of {one.about}" if one.probability else one.about).replace("\\", "/")
    value = hashlib.sha256(about.encode()).hexdigest()[:_CODE]
    return CodedConcept(value=value, scheme_designator=_SCHEME, meaning=about[:_MEANING])
