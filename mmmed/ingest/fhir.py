"""FHIR R4: reports, notes, observations and conditions from bundles, single resources and NDJSON exports."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fhir.resources.R4B import get_fhir_model_class

from mmmed.ingest.codes import Findings, code
from mmmed.ingest.records import (
    MAX_NOTE_CHARACTERS,
    MAX_TEXT_BYTES,
    Measure,
    Patient,
    Report,
    date,
    plain,
    sex,
)
from mmmed.ingest.sources import Found, Skipped

KINDS = ("DiagnosticReport", "DocumentReference", "Observation", "Condition")
_IDENTIFYING = ("Patient", "ImagingStudy", "ServiceRequest")
_STUDY_UID = "urn:oid:"
_VOID = ("entered-in-error", "cancelled")
_OVER = ("inactive", "remission", "resolved")


@dataclass(frozen=True)
class Named:
    """A resource that others refer to for the ids of a patient or study; an export may hold it in another file."""

    source: str
    reference: str
    ids: tuple[str, ...]
    person: Patient | None


def fhir_resources(found: Found) -> Iterator[Report | Named | Skipped]:
    """Reports and identifying resources of a FHIR file; resources of other kinds than `KINDS` are left out."""
    try:
        if found.path.stat().st_size > MAX_TEXT_BYTES:
            yield Skipped(found.origin, f"larger than {MAX_TEXT_BYTES >> 20} MiB: split the export")
            return
        content = found.path.read_text("utf-8")
        lines = content.splitlines() if found.path.suffix.lower() == ".ndjson" else [content]
        loaded = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        yield Skipped(found.origin, f"not readable as JSON ({type(error).__name__})")
        return
    resources = [entry for one in loaded for entry in _unbundled(one)]
    if not any(resource.get("resourceType") in (*KINDS, *_IDENTIFYING) for _, resource in resources):
        yield Skipped(found.origin, f"JSON without a FHIR resource of kind {', '.join(KINDS)}")
    for number, (url, resource) in enumerate(resources, start=1):
        kind = resource.get("resourceType")
        origin = f"{found.origin} {kind} {number}"
        if kind not in (*KINDS, *_IDENTIFYING):
            continue
        try:
            get_fhir_model_class(kind).model_validate(resource)
            if kind in _IDENTIFYING:
                yield from _named(resource, url, found.origin)
            else:
                yield _report(resource, found.origin, origin)
        except Exception as error:  # validation runs over a large generated model
            yield Skipped(origin, f"not a valid FHIR R4 {kind} ({type(error).__name__})")


def _unbundled(resource: Any) -> list[tuple[str, dict[str, Any]]]:
    """(full URL or "", resource) of each entry, or of a resource that stands alone."""
    if not isinstance(resource, dict):
        return []
    if resource.get("resourceType") != "Bundle":
        return [("", resource)]
    entries = resource.get("entry") or []
    inner = [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []
    return [
        (str(one.get("fullUrl") or ""), one["resource"])
        for one in inner
        if isinstance(one.get("resource"), dict)
    ]


def _named(resource: dict[str, Any], url: str, source: str) -> Iterator[Named]:
    person = None
    if resource["resourceType"] == "Patient":
        names = resource.get("name") or []
        person = Patient(
            names={" ".join([*(n.get("given") or []), n.get("family") or "", n.get("text") or ""]) for n in names},
            ids={one["value"] for one in resource.get("telecom") or [] if one.get("value")},
            sexes=sex(str(resource.get("gender") or "")),
        )  # fmt: skip
        person.born(str(resource.get("birthDate") or ""))
    ids = tuple(value.removeprefix(_STUDY_UID) for value in _identifier_values(resource))
    if resource.get("id"):
        yield Named(source, f"{resource['resourceType']}/{resource['id']}", ids, person)
    if url:
        yield Named(source, url, ids, person)


def _report(resource: dict[str, Any], source: str, origin: str) -> Report | Skipped:
    if resource.get("status") in _VOID or "entered-in-error" in _simple_codes(resource, "verificationStatus"):
        return Skipped(origin, "cancelled or entered in error")
    subject = resource.get("subject") or {}
    reference, named = subject.get("reference") or "", (subject.get("identifier") or {}).get("value")
    text, findings, measures = _fhir_text(resource), _findings(resource), _measures(resource)
    if not text and not findings and not measures:
        return Skipped(origin, "report without text, code or quantity that can be read")
    related = [one for name in ("basedOn", "imagingStudy") for one in resource.get(name) or []]
    related += (resource.get("context") or {}).get("related") or []
    studies = [*_identifier_values(resource), *(v for one in related for v in _identifier_values(one))]
    when = next((resource[name] for name in _DATES if resource.get(name)), "")
    return Report(
        patients=(named,) if named else (),
        studies=tuple(value.removeprefix(_STUDY_UID) for value in studies),
        text=text[:MAX_NOTE_CHARACTERS],
        origin=origin,
        references=tuple(filter(None, [reference, *(one.get("reference") for one in related)])),
        source=source,
        date=date(str(when)),
        measures=tuple(measures),
        findings=findings,
    )


_DATES = ("effectiveDateTime", "effectiveInstant", "onsetDateTime", "recordedDate", "issued", "date")


def _identifier_values(resource: dict[str, Any]) -> tuple[str, ...]:
    identifiers = resource.get("identifier") or []
    listed = identifiers if isinstance(identifiers, list) else [identifiers]
    return tuple(str(one["value"]) for one in listed if isinstance(one, dict) and one.get("value"))


def _codes(concepts: Iterable[dict[str, Any] | None]) -> list[str]:
    return [
        code(str(one.get("system") or ""), str(one["code"]))
        for concept in concepts
        for one in (concept or {}).get("coding") or []
        if one.get("code")
    ]


def _simple_codes(resource: dict[str, Any], name: str) -> set[str]:
    """Codes of a concept without their systems."""
    return {one.rpartition(":")[2] for one in _codes([resource.get(name)])}


def _findings(resource: dict[str, Any]) -> Findings:
    """Coded findings: of a condition, of a report's conclusion, of observations with coded answers."""
    found = Findings()
    if resource["resourceType"] == "Condition":
        denied = "refuted" in _simple_codes(resource, "verificationStatus")
        over = bool(_simple_codes(resource, "clinicalStatus") & set(_OVER))
        found.add(_codes([resource.get("code")]), present=not denied and not over)
    found.add(_codes(resource.get("conclusionCode") or []))
    for one in _observations(resource):
        questions = _codes([one.get("code")])
        if one.get("valueBoolean") is not None:
            found.add(questions, present=bool(one["valueBoolean"]))
        elif one.get("valueCodeableConcept"):
            found.answer(questions, _codes([one["valueCodeableConcept"]]))
        else:
            for meaning in _codes(one.get("interpretation") or []):
                if (sign := meaning.rpartition(":")[2]) in ("POS", "NEG", "DET", "ND"):
                    found.answer(questions, [sign])
    return found


def _measures(resource: dict[str, Any]) -> list[Measure]:
    """Quantities in UCUM of an observation and its components, by the code of what was measured."""
    found = []
    for one in _observations(resource):
        quantity = one.get("valueQuantity") or {}
        if quantity.get("value") is not None:
            unit = str(quantity.get("code") or quantity.get("unit") or "")
            written = f"{quantity.get('comparator') or ''}{quantity['value']}"
            found += [Measure(what, written, unit) for what in _codes([one.get("code")])]
    return found


def _observations(resource: dict[str, Any]) -> list[dict[str, Any]]:
    """An observation and its components."""
    if resource["resourceType"] != "Observation":
        return []
    return [resource, *(resource.get("component") or [])]


def _fhir_text(resource: dict[str, Any]) -> str:
    if resource["resourceType"] == "Condition":
        return ""
    if resource["resourceType"] == "Observation":
        label, value = (resource.get("code") or {}).get("text", ""), resource.get("valueString", "")
        return ": ".join(part for part in (label, value) if part) if value else ""
    attachments = resource.get("presentedForm") or [
        c.get("attachment") or {} for c in resource.get("content") or []
    ]
    for attachment in attachments:
        kind = str(attachment.get("contentType") or "")
        if kind.startswith(("text/plain", "text/html")) and attachment.get("data"):
            text = base64.b64decode(attachment["data"], validate=True).decode("utf-8", errors="replace")
            return plain(text) if kind.startswith("text/html") else text
    narrative = plain((resource.get("text") or {}).get("div", ""))
    conclusion = str(resource.get("conclusion") or "")
    return "\n".join(part for part in (narrative, f"IMPRESSION: {conclusion}" if conclusion else "") if part)
