"""C-CDA documents: sections, codes and quantities; nothing that a hostile document asks for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmmed.ingest import ccda
from mmmed.ingest.ccda import ccda_report
from mmmed.ingest.records import Measure, Report
from mmmed.ingest.sections import select_sections
from mmmed.ingest.sources import Found, Skipped
from tests.mmmed.ingest.documents import ccda_document, section


def _read(tmp_path: Path, content: str | bytes) -> Report | Skipped:
    path = tmp_path / "x.xml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return ccda_report(Found(path, "x.xml"))


def test_a_document_is_read_with_its_sections_codes_and_quantities(tmp_path: Path) -> None:
    report = _read(tmp_path, ccda_document())
    assert isinstance(report, Report)
    assert (
        report.patients == ("MHH111111",)
        and report.studies == ("ACC00001", "1.2.3.4")
        and report.date == "20200310"
    )
    assert select_sections(report.text, ("history",)) == "Erika Muster has a cough.\nSmoker"
    assert select_sections(report.text, ("findings",)) == "Lungs | clear\nSmall effusion on the left."
    assert select_sections(report.text, ("impression",)) == "Pneumonia & effusion."
    assert select_sections(report.text, ("other",)) == "Medications\nAspirin"
    assert (
        report.person.names >= {"Erika Muster", "Karl Arzt"} and "Radiology Chest" not in report.person.names
    )
    assert report.person.births == {"19530323"} and report.person.sexes == {"F"}
    assert report.person.ids >= {"Hauptstr. 5", "+49-511-123456"}
    assert report.findings.stated == {"SNOMED:233604007", "ICD10:J189"}
    assert report.findings.refuted == {
        "SNOMED:36118008"
    }  # negated; the family's and the planned are not the patient's
    assert report.measures == (Measure("LOINC:1988-5", "120", "mg/L"),)


def test_deleted_text_is_left_out_and_nested_sections_are_found(tmp_path: Path) -> None:
    inner = section(
        "121072", "Impressions", "<content revised='delete'>tumour</content>no <content>tumour</content>"
    )
    outer = inner.replace(
        "<section>", "<section><component>" + section("121070", "Findings", "clear") + "</component>"
    )
    report = _read(tmp_path, ccda_document(sections=[outer]))
    assert isinstance(report, Report) and report.text == "FINDINGS:\nclear\n\nIMPRESSION:\nno tumour"


BOMB = """<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;"><!ENTITY d "&c;&c;&c;&c;&c;&c;&c;&c;">]>
<ClinicalDocument>&d;</ClinicalDocument>"""
OUTSIDE = """<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>
<ClinicalDocument>&e;</ClinicalDocument>"""


@pytest.mark.parametrize(
    "content, reason",
    [
        (BOMB, "document type definition"),
        (OUTSIDE, "document type definition"),
        ("<!DOCTYPE x SYSTEM 'http://127.0.0.1:1/x.dtd'><x/>", "document type definition"),
        ("<a>" * 5000, "more than 100 levels"),
        ("<a/>", "no HL7 CDA"),
        ("", "not readable as XML"),
        ("no xml", "not readable as XML"),
        (b"<?xml version='1.0' encoding='klingon'?><a/>", "not readable as XML"),
        ("<ClinicalDocument xmlns='urn:hl7-org:v3'><component/></ClinicalDocument>", "not structured"),
    ],
)
def test_hostile_and_broken_documents_are_skipped(tmp_path: Path, content: str | bytes, reason: str) -> None:
    found = _read(tmp_path, content)
    assert isinstance(found, Skipped) and reason in found.reason


def test_size_and_number_of_elements_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ccda, "MAX_ELEMENTS", 1000)
    found = _read(tmp_path, "<a>" + "<b/>" * 2000 + "</a>")
    assert isinstance(found, Skipped) and "elements" in found.reason
    monkeypatch.setattr(ccda, "MAX_BYTES", 1000)
    found = _read(tmp_path, "<a>" + "x" * 2000 + "</a>")
    assert isinstance(found, Skipped) and "larger" in found.reason


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_documents_are_read_or_skipped(data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(ccda_document().encode())
    for _ in range(data.draw(st.integers(1, 10))):
        where = data.draw(st.integers(0, len(content) - 1))
        content[where : where + data.draw(st.integers(0, 5))] = data.draw(st.binary(max_size=5) | st.sampled_from(
            [b"<", b"/>", b"section", b"''", b'"', b"code", b"&amp;"]))  # fmt: skip
    started = time.process_time()
    assert isinstance(_read(tmp_path, bytes(content)), Report | Skipped)
    assert time.process_time() - started < 5
