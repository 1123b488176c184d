"""DICOM structured reports as plain text (PS3.3 C.17.3, content tree)."""

from __future__ import annotations

from pydicom import Dataset

MAX_DEPTH = 40
MAX_CHARACTERS = 200_000


def report_text(dataset: Dataset) -> str:
    """The content tree of a structured report, one line a concept: ``Findings: no effusion``.

    Containers become headings. References to images and waveforms, person names and observer items are left
    out: they are no findings. Raises `ValueError` if the tree is deeper than `MAX_DEPTH`.
    """
    lines: list[str] = []
    _collect(dataset, lines, 0)
    return "\n".join(lines)[:MAX_CHARACTERS]


def _collect(item: Dataset, lines: list[str], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"content tree deeper than {MAX_DEPTH} levels")
    if item.get("RelationshipType") == "HAS OBS CONTEXT":
        return
    heading = _meaning(item, "ConceptNameCodeSequence")
    kind = item.get("ValueType", "CONTAINER")
    value = {
        "TEXT": lambda: str(item.get("TextValue") or "").strip(),
        "CODE": lambda: _meaning(item, "ConceptCodeSequence"),
        "NUM": lambda: _measured(item),
        "DATE": lambda: str(item.get("Date") or ""),
    }.get(kind, str)()
    if value:
        lines.append(f"{heading}: {value}" if heading else value)
    elif kind == "CONTAINER" and heading and depth:
        lines.append(f"{heading}:")
    for child in item.get("ContentSequence") or []:
        _collect(child, lines, depth + 1)


def _meaning(item: Dataset, sequence: str) -> str:
    codes = item.get(sequence) or []
    return str(codes[0].get("CodeMeaning") or "").strip() if len(codes) else ""


def _measured(item: Dataset) -> str:
    values = item.get("MeasuredValueSequence") or []
    if not len(values):
        return ""
    return (
        f"{values[0].get('NumericValue', '')} {_meaning(values[0], 'MeasurementUnitsCodeSequence')}".strip()
    )
