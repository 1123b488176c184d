"""HL7 C-CDA documents (CDA R2): sections as text, coded entries, and whose they are.

The parser refuses document type definitions and so every entity; depth and number of elements are bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from xml.etree.ElementTree import Element

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import ParseError, iterparse

from mmmed.ingest.codes import Findings, code
from mmmed.ingest.records import MAX_NOTE_CHARACTERS, Measure, Patient, Report, date, sex
from mmmed.ingest.sections import Section
from mmmed.ingest.sources import Found, Skipped

MAX_BYTES = 64 << 20
MAX_DEPTH = 100
MAX_ELEMENTS = 2_000_000
_NS = {"h": "urn:hl7-org:v3", "ps": "urn:dicom-org:ps3-20"}
_TYPE = "{http://www.w3.org/2001/XMLSchema-instance}type"
_SECTIONS: dict[str, Section] = {  # section codes of C-CDA R2.1 and of DICOM PS3.20: LOINC, then DICOM
    **dict.fromkeys(
        ("10164-2", "11348-0", "11329-0", "10154-3", "46239-0", "29299-5", "42349-1", "55752-0", "18785-6", "121060"),
        "history",
    ),
    **dict.fromkeys(("55111-9", "18834-2", "121064", "29554-3"), "technique"),
    **dict.fromkeys(("18782-3", "59776-5", "29545-1", "10210-3", "121070"), "findings"),
    **dict.fromkeys(
        ("19005-8", "55110-1", "51848-0", "51847-2", "11535-2", "29308-4", "59769-0", "121072", "121076"), "impression"
    ),
}  # fmt: skip
_HEADINGS = {
    "history": "HISTORY",
    "technique": "TECHNIQUE",
    "findings": "FINDINGS",
    "impression": "IMPRESSION",
}
_CODED_SECTIONS = {  # in which an entry is of this patient and now; family history, plans and the like are not
    *_SECTIONS, "11450-4", "30954-2", "8716-3", "46240-8", "46241-6", "42347-5", "10160-0", "29762-2",
}  # fmt: skip
_OBJECT_CATALOG_STUDY = "113014"  # PS3.20 9.1.1.2: the act of a study carries its instance UID
_PEOPLE = ("patient", "assignedPerson", "guardianPerson", "associatedPerson", "relatedPerson")
_LINES = {"paragraph", "tr", "item", "br", "caption", "list", "table"}


def ccda_report(found: Found) -> Report | Skipped:
    """The document as one report: unmapped sections first, then history, technique, findings and impression
    under these headings, so that `select_sections` tells them apart."""
    if found.path.stat().st_size > MAX_BYTES:
        return Skipped(found.origin, f"XML larger than {MAX_BYTES >> 20} MiB")
    try:
        root = _parse(found)
    except DefusedXmlException as error:
        return Skipped(
            found.origin, f"XML with a document type definition or entities ({type(error).__name__})"
        )
    except (ParseError, ValueError, LookupError, OSError) as error:
        return Skipped(found.origin, f"not readable as XML ({type(error).__name__}: {error})"[:200])
    if root.tag != f"{{{_NS['h']}}}ClinicalDocument":
        return Skipped(found.origin, "XML that is no HL7 CDA document")
    sections = root.findall("./h:component/h:structuredBody//h:section", _NS)
    if not sections:
        return Skipped(found.origin, "HL7 CDA document without sections: its body is not structured")
    findings, measures = Findings(), list[Measure]()
    for section in sections:
        if _code_of(section) in _CODED_SECTIONS:
            for observation in section.iterfind("./h:entry//h:observation", _NS):
                measures += _read_entry(observation, findings)
    performed = root.find(".//h:serviceEvent/h:effectiveTime/h:low", _NS)
    role = root.find("./h:recordTarget/h:patientRole", _NS)
    return Report(
        patients=_extensions(role, "./h:id") if role is not None else (),
        studies=_studies(root),
        text=_text(sections)[:MAX_NOTE_CHARACTERS],
        origin=found.origin,
        date=date(_value(performed) or _value(_find(root, "h:effectiveTime"))),
        person=_person(root, role),
        measures=tuple(measures),
        findings=findings,
    )  # fmt: skip


def _parse(found: Found) -> Element:
    """Raises `ValueError` if the document is nested or branched beyond the limits."""
    depth = elements = 0
    root: Any = None
    with found.path.open("rb") as file:
        for event, element in iterparse(file, events=("start", "end"), forbid_dtd=True):
            root = element if root is None else root
            depth += 1 if event == "start" else -1
            elements += event == "start"
            if depth > MAX_DEPTH or elements > MAX_ELEMENTS:
                raise ValueError(f"more than {MAX_DEPTH} levels or {MAX_ELEMENTS:,} elements")
    if root is None:
        raise ValueError("empty")
    return root


def _text(sections: list[Element]) -> str:
    parts: dict[str, list[str]] = {"other": [], **{name: [] for name in _HEADINGS}}
    for section in sections:
        body = _find(section, "h:text")
        lines = _narrative(body) if body is not None else ""
        if not lines:
            continue
        name = _SECTIONS.get(_code_of(section), "other")
        title = _find(section, "h:title")
        words = _words(title) if title is not None else ""
        parts[name].append(f"{words}\n{lines}" if name == "other" and words else lines)
    return "\n\n".join(
        f"{_HEADINGS[name]}:\n" + "\n".join(texts) if name in _HEADINGS else "\n\n".join(texts)
        for name, texts in parts.items()
        if texts
    )


def _narrative(body: Element) -> str:
    """A narrative block (CDA R2 4.3.5) as lines; cells of a row are parted by bars, deleted text is left out."""
    out: list[str] = []

    def collect(element: Element) -> None:
        name = element.tag.rpartition("}")[2]
        if name == "content" and element.get("revised") == "delete":
            out.append(element.tail or "")
            return
        if name in _LINES:
            out.append("\n")
        out.append(element.text or "")
        for child in element:
            collect(child)
        if name in _LINES:
            out.append("\n")
        elif name in ("td", "th"):
            out.append(" | ")
        out.append(element.tail or "")

    collect(body)
    lines = (" ".join(line.split()).strip("| ") for line in "".join(out).splitlines())
    return "\n".join(line for line in lines if line)


def _read_entry(observation: Element, findings: Findings) -> Iterator[Measure]:
    """Note a coded value; return a physical quantity. Only what happened counts (mood EVN)."""
    status = observation.find("./h:statusCode", _NS)
    if observation.get("moodCode") != "EVN" or (
        status is not None and status.get("code") in ("aborted", "cancelled", "nullified")
    ):
        return
    present = observation.get("negationInd") != "true"
    question = _coded(observation.find("./h:code", _NS))
    for value in observation.iterfind("./h:value", _NS):
        kind = (value.get(_TYPE) or "").rpartition(":")[2]
        if kind == "PQ" and value.get("value") and question:
            yield Measure(question[0], str(value.get("value")), value.get("unit") or "1")
        elif kind in ("CD", "CE") and (answers := _coded(value)):
            if present:
                findings.answer(question, answers)
            else:
                findings.add(answers, present=False)


def _coded(element: Element | None) -> list[str]:
    """Code of an element and its translations."""
    if element is None:
        return []
    found = [element, *element.iterfind("./h:translation", _NS)]
    return [code(one.get("codeSystem") or "", one.get("code") or "") for one in found if one.get("code")]


def _person(root: Element, role: Element | None) -> Patient:
    """The patient's and all other people's names in the document, with ids, addresses and telephone numbers."""
    people = (name for kind in _PEOPLE for name in root.iterfind(f".//h:{kind}/h:name", _NS))
    known = Patient(names={_words(name) for name in people} - {""})
    known.ids = {*_extensions(root, ".//h:assignedAuthor/h:id"), *_studies(root)}
    if role is None:
        return known
    known.ids |= {
        _words(one) or (one.get("value") or "").partition(":")[2]
        for kind in ("addr", "streetAddressLine", "telecom")
        for one in role.iterfind(f".//h:{kind}", _NS)
    }
    known.born(_value(role.find("./h:patient/h:birthTime", _NS)))
    gender = role.find("./h:patient/h:administrativeGenderCode", _NS)
    known.sexes = sex(gender.get("code") or "") if gender is not None else set()
    return known


def _studies(root: Element) -> tuple[str, ...]:
    """Accession numbers of the orders that are fulfilled, and UIDs of the studies in the object catalogue."""
    found = list(_extensions(root, "./h:inFulfillmentOf/h:order/h:id"))
    found += ["".join(one.itertext()).strip() for one in root.iterfind(".//ps:accessionNumber", _NS)]
    for act in root.iterfind(".//h:act", _NS):
        if _code_of(act) == _OBJECT_CATALOG_STUDY:
            found += [one.get("root") or "" for one in act.iterfind("./h:id", _NS)]
    return tuple(value for value in dict.fromkeys(found) if value)


def _words(element: Element) -> str:
    """All text in an element, parts parted by one space."""
    return " ".join(" ".join(element.itertext()).split())


def _extensions(element: Element, path: str) -> tuple[str, ...]:
    return tuple(one.get("extension") or "" for one in element.iterfind(path, _NS) if one.get("extension"))


def _find(element: Element, name: str) -> Element | None:
    return element.find(f"./{name}", _NS)


def _code_of(element: Element) -> str:
    found = _find(element, "h:code")
    return (found.get("code") or "") if found is not None else ""


def _value(element: Element | None) -> str:
    return (element.get("value") or "") if element is not None else ""
