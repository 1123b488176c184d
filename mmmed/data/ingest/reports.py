"""Reports and what patient and study they belong to, from FHIR R4 files, text files and tables."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from fhir.resources.R4B import get_fhir_model_class

from mmmed.data.ingest.sources import Found, Skipped

MAX_TEXT_BYTES = 256 << 20
MAX_NOTE_CHARACTERS = 200_000
_FHIR_TEXTS = ("DiagnosticReport", "DocumentReference", "Observation")
_STUDY_UID = "urn:oid:"


@dataclass(frozen=True)
class Report:
    """A text as it came, identifiers and all.

    Attributes:
        patients: ids the patient goes by in this source; empty if the study alone tells.
        studies: study instance UIDs or accession numbers; empty if the patient alone tells.
        text: the note.
        values: other columns of the row it came from.
        image: an image file named beside the text; None if there is none.
    """

    patients: tuple[str, ...]
    studies: tuple[str, ...]
    text: str
    origin: str
    values: Mapping[str, object] = field(default_factory=dict)
    image: Path | None = None


def text_file(found: Found) -> Report | Skipped:
    """A ``.txt`` file; it belongs to the study of its folder, or the one that its name states."""
    try:
        if found.path.stat().st_size > MAX_NOTE_CHARACTERS * 4:
            return Skipped(found.origin, "text file too large for a note")
        content = found.path.read_bytes()
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    except OSError as error:
        return Skipped(found.origin, f"cannot be read ({error.strerror})")
    if "\0" in text:
        return Skipped(found.origin, "not a text file")
    return Report((), (found.path.stem,), text[:MAX_NOTE_CHARACTERS], found.origin)


def table_rows(
    found: Found, *, patient: str, study: str, text: str, image: str, keep: Sequence[str]
) -> Iterator[Report | Skipped]:
    """Rows of a CSV or Parquet table; columns that are not asked for stay behind."""
    try:
        if found.path.stat().st_size > MAX_TEXT_BYTES:
            yield Skipped(found.origin, f"table larger than {MAX_TEXT_BYTES >> 20} MiB: split it")
            return
        if found.path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(found.path)
        else:
            frame = pd.read_csv(found.path, dtype=str, keep_default_na=False, encoding_errors="replace")
    except Exception as error:  # the parsers raise whatever they stumble over
        yield Skipped(found.origin, f"not a readable table ({type(error).__name__})")
        return
    wanted = [column for column in (patient, study, text, image, *keep) if column]
    missing = [column for column in wanted if column not in frame.columns]
    if missing:
        yield Skipped(found.origin, f"table without column {', '.join(missing)} (named in the options)")
        return
    for number, row in enumerate(frame[wanted].to_dict("records"), start=1):
        cells = {column: "" if pd.isna(value) else str(value).strip() for column, value in row.items()}
        yield Report(
            (cells[patient],),
            (cells[study],) if study and cells[study] else (),
            cells[text][:MAX_NOTE_CHARACTERS] if text else "",
            f"{found.origin} row {number}",
            {column: cells[column] or None for column in keep},
            found.path.parent / cells[image] if image and cells[image] else None,
        )


def fhir_reports(found: Found) -> Iterator[Report | Skipped]:
    """Texts of DiagnosticReport, DocumentReference and Observation in a bundle, resource or NDJSON export."""
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
    resources = [resource for one in loaded for resource in _unbundled(one)]
    patients = {
        f"Patient/{one.get('id')}": _identifier_values(one)
        for one in resources
        if one.get("resourceType") == "Patient"
    }
    if not any(resource.get("resourceType") in _FHIR_TEXTS for resource in resources):
        yield Skipped(found.origin, f"JSON without a FHIR resource of kind {', '.join(_FHIR_TEXTS)}")
    for number, resource in enumerate(resources, start=1):
        kind = resource.get("resourceType")
        if kind not in _FHIR_TEXTS:
            continue
        origin = f"{found.origin} {kind} {number}"
        try:
            get_fhir_model_class(kind).model_validate(resource)
            text = _fhir_text(resource)
        except Exception as error:  # validation runs over a large generated model
            yield Skipped(origin, f"not a valid FHIR R4 {kind} ({type(error).__name__})")
            continue
        reference = (resource.get("subject") or {}).get("reference", "")
        names = patients.get(reference) or ((reference.rpartition("/")[2],) if reference else ())
        named = (resource.get("subject") or {}).get("identifier", {}).get("value")
        if text:
            yield Report(
                (*names, named) if named else names, _studies(resource), text[:MAX_NOTE_CHARACTERS], origin
            )
        else:
            yield Skipped(
                origin, "report without text that can be read (plain text, narrative or conclusion)"
            )


def _unbundled(resource: Any) -> list[dict[str, Any]]:
    if not isinstance(resource, dict):
        return []
    if resource.get("resourceType") != "Bundle":
        return [resource]
    entries = resource.get("entry") or []
    inner = (
        [entry.get("resource") for entry in entries if isinstance(entry, dict)]
        if isinstance(entries, list)
        else []
    )
    return [one for one in inner if isinstance(one, dict)]


def _identifier_values(resource: dict[str, Any]) -> tuple[str, ...]:
    identifiers = resource.get("identifier") or []
    listed = identifiers if isinstance(identifiers, list) else [identifiers]
    return tuple(str(one["value"]) for one in listed if isinstance(one, dict) and one.get("value"))


def _studies(resource: dict[str, Any]) -> tuple[str, ...]:
    """Accession numbers and study UIDs among the identifiers of the report and of the orders and studies it names."""
    found = list(_identifier_values(resource))
    for name in ("basedOn", "imagingStudy"):
        found += [value for one in resource.get(name) or [] for value in _identifier_values(one)]
    for related in (resource.get("context") or {}).get("related", []):
        found += _identifier_values(related)
    return tuple(value.removeprefix(_STUDY_UID) for value in found)


def _fhir_text(resource: dict[str, Any]) -> str:
    if resource["resourceType"] == "Observation":
        label = (resource.get("code") or {}).get("text", "")
        return (
            ": ".join(part for part in (label, resource.get("valueString", "")) if part)
            if (resource.get("valueString"))
            else ""
        )
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


def plain(markup: str) -> str:
    """Text of an HTML fragment: block ends become line ends, entities characters."""
    broken = re.sub(r"(?i)<(?:br|/p|/div|/li|/tr|/h\d)\b[^<>]*>", "\n", markup)
    return html.unescape(re.sub(r"<[^<>]*>", " ", broken)).strip()
