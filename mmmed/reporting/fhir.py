"""A prediction as FHIR R4 DiagnosticReport, which contains an Observation a number, checked by fhir.resources."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fhir.resources.R4B.diagnosticreport import DiagnosticReport

from mmmed.reporting.told import Statement, Told, plain

_UCUM = "http://unitsofmeasure.org"
_DICOM_UID = "urn:dicom:uid"  # FHIR R4, Identifier systems: the value is urn:oid: and the UID


def diagnostic_report(told: Told) -> str:
    """The report as JSON: preliminary, with the model as the device that observed.

    Of the patient it names the identifier that the DICOM source has, or the one that was given; nothing else.
    """
    subject, study = _subject(told), _study(told)
    model = {
        "resourceType": "Device",
        "id": "model",
        "status": "active",
        "manufacturer": "mmmed",
        "deviceName": [{"name": plain(told.model) or "model", "type": "model-name"}],
        "version": [{"value": told.version}],
    }
    observations = [
        {"resourceType": "Observation", "id": f"answer-{number}", "status": "preliminary"}
        | {"code": {"text": plain(one.about) or "answer"}, "device": {"reference": "#model"}}
        | subject
        | _value(one)
        for number, one in enumerate(told.statements, 1)
    ]
    report = {
        "resourceType": "DiagnosticReport",
        "status": "preliminary",
        "code": {"text": "Model output, not a diagnosis"},
        "issued": datetime.now(UTC).isoformat(timespec="seconds"),
        "contained": [model, *observations],
        "result": [{"reference": f"#{one['id']}"} for one in observations],
        "conclusion": " ".join(filter(None, map(plain, told.notes))),
        **subject,
        **study,
    }
    return DiagnosticReport.model_validate(report).model_dump_json(indent=2) + "\n"


def _value(one: Statement) -> dict[str, Any]:
    notes = {"note": [{"text": one.note}]} if one.note else {}
    if isinstance(one.value, str):
        text = plain(one.value)
        return notes | ({"valueString": text} if text else {"dataAbsentReason": {"text": "an empty text"}})
    unit = {"unit": "probability", "system": _UCUM, "code": "1"} if one.probability else {}
    return notes | {"valueQuantity": {"value": one.value, **unit}}


def _subject(told: Told) -> dict[str, Any]:
    own = told.source.get("PatientID") if told.source is not None else None
    known = plain(str(own or told.patient))
    if not known:
        return {}
    identifier: dict[str, Any] = {"value": known}
    if own and (issuer := plain(str(told.source.get("IssuerOfPatientID", "") if told.source else ""))):
        identifier["assigner"] = {"display": issuer}
    return {"subject": {"type": "Patient", "identifier": identifier}}


def _study(told: Told) -> dict[str, Any]:
    uid = str(told.source.get("StudyInstanceUID", "") if told.source is not None else "")
    if not uid:
        return {}
    identifier = {"system": _DICOM_UID, "value": f"urn:oid:{uid}"}
    return {"imagingStudy": [{"type": "ImagingStudy", "identifier": identifier}]}
