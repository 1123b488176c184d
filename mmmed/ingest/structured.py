"""Coded findings and measurements of DICOM structured reports (PS3.3 C.17.3)."""

from __future__ import annotations

from pydicom import Dataset

from mmmed.dicom.report import MAX_DEPTH
from mmmed.ingest.codes import Findings, code
from mmmed.ingest.records import Measure


def coded_content(dataset: Dataset) -> tuple[Findings, list[Measure]]:
    """CODE items as findings, with ``present`` or ``absent`` as answers; NUM items as measures.

    Observer context is left out. Raises `ValueError` if the tree is deeper than `MAX_DEPTH`.
    """
    findings, measures = Findings(), list[Measure]()
    _collect(dataset, findings, measures, 0)
    return findings, measures


def _collect(item: Dataset, findings: Findings, measures: list[Measure], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"content tree deeper than {MAX_DEPTH} levels")
    relation = item.get("RelationshipType")
    if relation == "HAS OBS CONTEXT":
        return
    children = list(item.get("ContentSequence") or [])
    concept = _codes(item, "ConceptNameCodeSequence")
    if item.get("ValueType") == "CODE" and relation != "HAS CONCEPT MOD":
        value = _codes(item, "ConceptCodeSequence")
        findings.answer(concept, value)
        for child in children:  # a modifier such as "absent" turns the finding
            if child.get("RelationshipType") == "HAS CONCEPT MOD" and child.get("ValueType") == "CODE":
                findings.modify(value, _codes(child, "ConceptCodeSequence"))
    elif item.get("ValueType") == "NUM" and len(values := item.get("MeasuredValueSequence") or []):
        unit = next(iter(_codes(values[0], "MeasurementUnitsCodeSequence")), "").partition(":")[2]
        number = str(values[0].get("NumericValue", ""))
        measures += [Measure(what, number, unit) for what in concept]
    for child in children:
        _collect(child, findings, measures, depth + 1)


def _codes(item: Dataset, sequence: str) -> list[str]:
    return [
        code(str(one.get("CodingSchemeDesignator") or ""), str(one.CodeValue))
        for one in item.get(sequence) or []
        if one.get("CodeValue")
    ]
