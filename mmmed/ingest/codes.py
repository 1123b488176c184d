"""Coded findings: one spelling for the codes of FHIR, DICOM, C-CDA and tables, and whether they are stated.

A code is written SYSTEM:VALUE, e.g. ICD10:J18.1, SNOMED:60046008, LOINC:1988-5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator

_SYSTEMS = {  # FHIR R4 4.3.0 terminologies; DICOM PS3.16 table 8-1; HL7 OIDs
    "LOINC": ("http://loinc.org", "LN", "2.16.840.1.113883.6.1"),
    "SNOMED": ("http://snomed.info/sct", "SCT", "SNM3", "2.16.840.1.113883.6.96"),
    "ICD10": (
        "http://hl7.org/fhir/sid/icd-10", "http://hl7.org/fhir/sid/icd-10-cm", "I10", "I10C",
        "http://fhir.de/CodeSystem/bfarm/icd-10-gm", "http://fhir.de/CodeSystem/dimdi/icd-10-gm",
        "2.16.840.1.113883.6.3", "2.16.840.1.113883.6.90", "1.2.276.0.76.5.409", "ICD-10", "ICD-10-CM",
        "ICD-10-GM", "ICD10CM", "ICD10GM",
    ),
}  # fmt: skip
_NAMES = {
    spelling.casefold(): name for name, spellings in _SYSTEMS.items() for spelling in (name, *spellings)
}
# German codes have at most two digits after the dot, then signs; American ones up to four characters.
_ICD10 = re.compile(r"([A-Z]\d[0-9A-Z])\.?(?:(\d{0,2})[-*+!†#]*\s*([AGVZ])?[RLB]?|([0-9A-Z]{1,4}))")
_ANY = re.compile(r".+")
_FORMS = {"ICD10": _ICD10, "SNOMED": re.compile(r"\d{6,18}"), "LOINC": re.compile(r"(?:L[ALP])?\d+-\d")}
_PARTED = re.compile(r"[,;|]\s*|\s+(?![AGVZRL]\b)")  # a sign may stand apart from its code
_PRESENT = {  # answers that state what was asked for
    "SNOMED:52101004", "SNOMED:373066001", "SNOMED:260373001", "SNOMED:10828004", "LOINC:LA9633-4",
    "LOINC:LA33-6", "LOINC:LA11882-0", "LOINC:LA6576-8", "SRT:R-0038D", "POS", "DET",
}  # fmt: skip
_ABSENT = {
    "SNOMED:2667000", "SNOMED:373067005", "SNOMED:260415000", "SNOMED:260385009", "LOINC:LA9634-2",
    "LOINC:LA32-8", "LOINC:LA11883-8", "LOINC:LA6577-6", "SRT:R-00339", "NEG", "ND",
}  # fmt: skip


def code(system: str, value: str) -> str:
    """``SYSTEM:VALUE`` with the usual name of the system; an unknown system keeps its own name.

    ICD-10 codes lose their dot, and marks such as the dagger.
    """
    name = _NAMES.get(system.strip().casefold().removeprefix("urn:oid:"), system.strip())
    value = value.strip()
    if name == "ICD10" and (match := _ICD10.fullmatch(value.upper())):
        value = match[1] + (match[2] or "") + (match[4] or "")
    return f"{name}:{value}"


def _checked(text: str) -> str:
    system, separator, value = text.partition(":")
    if not separator or not system.strip() or not value.strip():
        raise ValueError(f"{text!r}: expected SYSTEM:VALUE, e.g. ICD10:J18 or SNOMED:60046008")
    return code(system, value)


Code = Annotated[str, AfterValidator(_checked)]


class Findings:
    """Codes that are stated, and codes that are refuted, of one study."""

    def __init__(self) -> None:
        self.stated: set[str] = set()
        self.refuted: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self.stated or self.refuted)

    def __or__(self, other: Findings) -> Findings:
        both = Findings()
        both.stated, both.refuted = self.stated | other.stated, self.refuted | other.refuted
        return both

    def add(self, codes: Iterable[str], *, present: bool = True) -> None:
        """Add codes to those that are stated, or with ``present=False`` to those that are refuted."""
        (self.stated if present else self.refuted).update(codes)

    def answer(self, questions: Iterable[str], answers: Iterable[str]) -> None:
        """Store the answer to a coded question: the question is present or absent, or the answer is a finding."""
        answers = set(answers)
        if answers & _ABSENT:
            self.add(questions, present=False)
        elif answers & _PRESENT:
            self.add(questions)
        else:
            self.add(answers)

    def modify(self, codes: Iterable[str], modifiers: Iterable[str]) -> None:
        """Move stated codes to the refuted ones if a modifier says that they are absent."""
        if _ABSENT & set(modifiers):
            self.stated -= set(codes)
            self.refuted |= set(codes)

    def add_cell(self, system: str, cell: str) -> None:
        """Note the codes of a table cell, parted by commas, semicolons, bars or spaces; words are no codes.

        The additional signs of ICD-10-GM count: A (excluded) refutes; V (suspected) and Z (state after) do
        neither.
        """
        for part in _PARTED.split(cell.strip()):
            own, _, value = part.rpartition(":")
            name = code(own or system, value)
            form = _FORMS.get(name.partition(":")[0], _ANY).fullmatch(value.strip().upper())
            sign = form[3] if form and name.startswith("ICD10:") else None
            if form and sign not in ("V", "Z"):
                self.add([name], present=sign != "A")

    def label(self, wanted: Iterable[str]) -> int | None:
        """1 if a wanted code is stated, 0 if it is refuted or only others of its system are stated, else None."""
        wanted = set(wanted)
        if any(_below(found, wanted) for found in self.stated):
            return 1
        systems = {name.partition(":")[0] for name in wanted}
        if any(_below(found, wanted) for found in self.refuted):
            return 0
        return 0 if any(name.partition(":")[0] in systems for name in self.stated | self.refuted) else None


def _below(found: str, wanted: set[str]) -> bool:
    """Whether a code is one of those wanted, or in ICD-10 one of their subcategories."""
    if found.startswith("ICD10:"):
        return any(one.startswith("ICD10:") and found.startswith(one) for one in wanted)
    return found in wanted
