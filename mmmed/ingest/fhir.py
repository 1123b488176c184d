"""FHIR R4: reports, notes, observations and conditions from bundles, single resources and NDJSON exports."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fhir.resources.R4B import get_fhir_model_class

from mmmed.decoding import Undecodable, decode
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
_PEOPLE = ("Practitioner", "PractitionerRole", "RelatedPerson", "Person", "Organization", "Location")
_MOST_PEOPLE = 500
_DEEPEST = 20
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
        content = decode(found.path.read_bytes())
        lines = content.split("\n") if found.path.suffix.lower() == ".ndjson" else [content]
        loaded = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        yield Skipped(found.origin, f"not readable as JSON ({type(error).__name__})")
        return
    resources = [entry for one in loaded for entry in _unbundled(one)]
    others = _others([resource for _, resource in resources])
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
                yield _report(resource, found.origin, origin, others)
        except Undecodable as error:
            yield Skipped(origin, str(error))
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
        person = _person(resource)
    ids = tuple(value.removeprefix(_STUDY_UID) for value in _identifier_values(resource))
    if resource.get("id"):
        yield Named(source, f"{resource['resourceType']}/{resource['id']}", ids, person)
    if url:
        yield Named(source, url, ids, person)


def _person(resource: dict[str, Any]) -> Patient:
    """What a Patient resource says of the patient and of their contacts."""
    person = Patient(names=set(_names(resource)), sexes=sex(str(resource.get("gender") or "")))
    person.called = next(iter(_names(resource)), "")
    person.born(str(resource.get("birthDate") or ""))
    _learn(person, resource)
    return person


def _names(resource: dict[str, Any]) -> list[str]:
    """The names of a Patient, Practitioner, RelatedPerson (several parts each) or Organization (text)."""
    listed = resource.get("name") or []
    return [
        " ".join([*(one.get("given") or []), one.get("family") or "", one.get("text") or ""])
        if isinstance(one, dict)
        else str(one)
        for one in (listed if isinstance(listed, list) else [listed])
    ]


def _learn(person: Patient, element: Any, depth: int = 0) -> None:
    """Add every name, address, telephone number and name of a referred person that an element holds, at any depth."""
    if isinstance(element, list):
        for one in element:
            _learn(person, one, depth + 1)
    if not isinstance(element, dict) or depth > _DEEPEST:
        return
    if isinstance(element.get("name"), list | dict) and element.get("resourceType") != "Organization":
        person.names |= set(_names(element))
    if isinstance(element.get("reference") or element.get("identifier"), str | dict) and element.get(
        "display"
    ):
        person.names.add(str(element["display"]))
    for one in element.get("telecom") or []:
        person.ids |= {str(one["value"])} if isinstance(one, dict) and one.get("value") else set()
    addresses = element.get("address") or []
    for one in addresses if isinstance(addresses, list) else [addresses]:
        if isinstance(one, dict):
            person.ids |= {str(line) for line in [*(one.get("line") or []), one.get("text")] if line}
            person.places |= {str(one[part]) for part in ("city", "district") if one.get(part)}
            person.ids |= {str(one["postalCode"])} if one.get("postalCode") else set()
    for value in element.values():
        if isinstance(value, list | dict):
            _learn(person, value, depth + 1)


def _others(resources: list[dict[str, Any]]) -> Patient:
    """Practitioners, relatives and organisations of a file, whom its notes may name; none of a large export."""
    people = [one for one in resources if one.get("resourceType") in _PEOPLE]
    known = Patient()
    for one in people if len(people) <= _MOST_PEOPLE else ():
        known.names |= set(_names(one))
        _learn(known, one)
    return known


def _report(resource: dict[str, Any], source: str, origin: str, others: Patient) -> Report | Skipped:
    if resource.get("status") in _VOID or "entered-in-error" in _simple_codes(resource, "verificationStatus"):
        return Skipped(origin, "cancelled or entered in error")
    subject = resource.get("subject") or {}
    reference, named = subject.get("reference") or "", (subject.get("identifier") or {}).get("value")
    contained = {f"#{one.get('id')}": one for one in resource.get("contained") or [] if isinstance(one, dict)}
    patients = [named] if named else []
    known = Patient()
    known.learn(others)
    _learn(known, {name: value for name, value in resource.items() if name != "contained"})
    for one in contained.values():
        _learn(known, one)
    if (inner := contained.get(reference)) and inner.get("resourceType") == "Patient":
        patients += _identifier_values(inner)
        known.learn(_person(inner))
    text, findings, measures = _fhir_text(resource), _findings(resource), _measures(resource)
    if not text and not findings and not measures:
        return Skipped(
            origin,
            "report without text, code or quantity that can be read (attachments: text, HTML and RTF are)",
        )
    related = [one for name in ("basedOn", "imagingStudy") for one in resource.get(name) or []]
    related += (resource.get("context") or {}).get("related") or []
    related += [contained[one["reference"]] for one in related if one.get("reference") in contained]
    studies = [*_identifier_values(resource), *(v for one in related for v in _identifier_values(one))]
    when = next((resource[name] for name in _DATES if resource.get(name)), "")
    return Report(
        patients=tuple(patients),
        studies=tuple(value.removeprefix(_STUDY_UID) for value in studies),
        text=text[:MAX_NOTE_CHARACTERS],
        origin=origin,
        references=tuple(filter(None, [reference, *(one.get("reference") for one in related)])),
        source=source,
        person=known,
        date=date(str(when)),
        measures=tuple(measures),
        findings=findings,
    )


_CHARSET = re.compile(r"(?i)charset\s*=\s*[\"']?([\w:.-]+)")
_TEXTS = ("application/rtf", "application/xhtml+xml", "ascii text", "text")
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
        form, charset = kind.partition(";")[0].strip().casefold(), _CHARSET.search(kind)
        if (form.startswith("text/") or form in _TEXTS) and attachment.get("data"):
            content = base64.b64decode(attachment["data"], validate=True)
            text = decode(content, charset[1] if charset else "")
            return plain(text) if "html" in form else text
    narrative = plain((resource.get("text") or {}).get("div", ""))
    conclusion = str(resource.get("conclusion") or "")
    return "\n".join(part for part in (narrative, f"IMPRESSION: {conclusion}" if conclusion else "") if part)
