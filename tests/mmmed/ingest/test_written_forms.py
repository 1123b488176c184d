"""Names that the header knows are found in notes however they were written; what cannot be decoded is refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from mmmed.decoding import Undecodable, decode
from mmmed.dicom.file import open_dicom
from mmmed.ingest.legible import legible
from mmmed.ingest.options import TableOptions
from tests.mmmed.dicom.files import dicom, save
from tests.mmmed.ingest.test_read_or_refused import film, read

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
NAME = "Müller^Jürgen"
NOTE = "Aufnahme von Müller, Jürgen. Erguss links, 5 µg bei 37 °C. Frau Groß war dabei."
FOUND = "Aufnahme von [NAME]. Erguss links, 5 µg bei 37 °C. Frau [NAME] war dabei."
POLISH = "Pacjent Paweł Łukasiński, źle się czuje. Żółć bez zmian"
TABLE = TableOptions(patient="pid", study="acc", text="note")


def texts(folder: Path, **table: str) -> list[str]:
    _, notes = read(folder, tables=(TABLE.model_copy(update=table),))
    return [entry.text for entry in notes.studies.values()]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "cp1252", "latin-1", "cp850", "utf-16", "utf-16-le"]
)
def test_tables_of_every_encoding_and_delimiter(encoding: str, tmp_path: Path) -> None:
    sign = ",;\t|"[len(encoding) % 4]
    film(tmp_path, PatientName=NAME)
    content = f'pid{sign}acc{sign}note\r\nP1{sign}A1{sign}"{NOTE}"\r\n'
    (tmp_path / "r.csv").write_bytes(content.encode(encoding))
    assert texts(tmp_path) == [FOUND]


def test_the_town_of_the_headers_institution_does_not_stay_in_notes(tmp_path: Path) -> None:
    film(tmp_path, InstitutionName="KLINIKUM RABENAU", InstitutionAddress="Ostweg 2, 34567 Brunnkirchen")
    (tmp_path / "A1.txt").write_text(
        "Kam mit dem Bus aus Richtung Rabenau, wuchs bei Brunnkirchen auf. Chest clear."
    )
    assert texts(tmp_path) == ["Kam mit dem Bus aus Richtung [PLACE], wuchs bei [PLACE] auf. Chest clear."]


def test_text_files_with_stray_bytes_and_tables_of_several_encodings(tmp_path: Path) -> None:
    film(tmp_path, PatientName=NAME)
    (tmp_path / "A1.txt").write_bytes("Erguss. Stabil: Jürgen Müller. ".encode() + b"\x96 ok")
    assert texts(tmp_path) == ["Erguss. Stabil: [NAME]. – ok"]
    (tmp_path / "A1.txt").unlink()
    film(tmp_path, "P2", "A2", PatientName="Weiß^Änne")
    rows = [b"pid,acc,note", "P1,A1,Herr Müller: ø".encode(), "P2,A2,Änne Weiß klagt".encode("cp1252")]
    (tmp_path / "r.csv").write_bytes(b"\n".join(rows))
    assert sorted(texts(tmp_path)) == ["Herr [NAME]: ø", "[NAME] klagt"]


def test_what_no_encoding_fits_is_refused_row_by_row_until_it_is_stated(tmp_path: Path) -> None:
    film(tmp_path, PatientName="Kim^Younghee=김^영희")
    film(tmp_path, "P2", "A2")
    content = "pid,acc,note\nP1,A1,환자 김영희는 호전됨.\nP2,A2,No effusion.\n"
    (tmp_path / "r.csv").write_bytes(content.encode("cp949"))
    _, notes = read(tmp_path, tables=(TABLE,))
    assert [entry.text for entry in notes.studies.values()] == ["No effusion."]
    found, _ = read(tmp_path, tables=(TABLE,))
    assert [one.origin.rpartition(" ")[2] for one in found.skipped] == ["1"] and "encoding" in found.skipped[
        0
    ].reason
    assert texts(tmp_path, encoding="cp949") == ["환자 [NAME]는 호전됨.", "No effusion."]
    with pytest.raises(ValueError, match="is no encoding"):
        TableOptions(patient="pid", encoding="utf-99")


@pytest.mark.parametrize(
    "text, encoding", [("Больной Иванов Пётр, выпота нет.", "koi8_r"), ("患者山田太郎さんは軽快。", "euc_jp"),
                       ("Hasta Şükrü Yılmaz", "cp1254"), ("Herr Müller", "mac_roman"), (POLISH, "iso8859_2"),
                       ("患者山田太郎さんは軽快。", "shift_jis")],
)  # fmt: skip
def test_no_encoding_is_guessed_where_several_fit(text: str, encoding: str) -> None:
    with pytest.raises(Undecodable, match="state encoding"):
        decode(text.encode(encoding))
    assert decode(text.encode(encoding), encoding) == text


def test_encodings_that_tell_themselves() -> None:
    assert decode(POLISH.encode("cp1250")) == POLISH
    assert decode("山田太郎".encode("iso2022_jp")) == "山田太郎"
    for stated in ("iso-8859-1", "us-ascii", "nonsense", "utf-8"):
        assert decode("Jürgen".encode("cp1252"), stated) == decode("Jürgen".encode(), stated) == "Jürgen"


def test_parquet_of_bytes_and_of_strings_that_are_no_utf8(tmp_path: Path) -> None:
    film(tmp_path, PatientName=NAME)
    raw = pa.array([NOTE.encode("cp1252")], pa.binary())
    lying = pa.Array.from_buffers(pa.string(), 1, raw.buffers())
    for column in (raw, lying):
        table = pa.table({"pid": ["P1"], "acc": ["A1"], "note": column})
        parquet.write_table(table, tmp_path / "r.parquet")
        assert texts(tmp_path) == [FOUND]


@pytest.mark.parametrize(
    "written, meant",
    [(r"c.\.br\M\XFC\ller, J\XFC\rgen\X0D\\X0A\No", "c.\nMüller, Jürgen\nNo"), (r"M\XC3\\XBC\ller \T\ \H\b\N\ ",
     "Müller & b "),
     ("M&uuml;ller &amp;uuml; &#252; &#xFC; &lt;5 a&b", "Müller ü ü ü <5 a&b"), ("<p>Herr M&uuml;ller<br>x</p>",
     "Herr Müller\nx"),
     ("MÃ¼ller GrÃ¶ÃŸe", "Müller Größe"), (r"J\u00fcrgen", "Jürgen"), ("M=C3=BCller", "Müller"),
     ("M\u00adül\u200bler\u00a0x", "Müller x"),
     (r"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 Arial;}}\f0 M\'fcller\par Gro\'df \u8211?\par}", "Müller\nGroß –\n"),
     (r"{\rtf1\ansi\ansicpg1250 Pawe\'b3}", "Paweł"), ("p < 0.05 and x > 3; EF=55%", "p < 0.05 and x > 3; EF=55%"),
     (r"C:\tmp\x", r"C:\tmp\x")],
)  # fmt: skip
def test_layers_of_escapes_are_taken_off(written: str, meant: str) -> None:
    assert legible(written) == meant


@pytest.mark.parametrize("note", ["M\ufffdller", "M\x81ller", r"text {\rtf1 M\'fcller}"])
def test_a_note_with_lost_characters_is_refused_and_counted(note: str, tmp_path: Path) -> None:
    with pytest.raises(Undecodable):
        legible(note)
    film(tmp_path, PatientName=NAME)
    table = pa.table({"pid": ["P1"], "acc": ["A1"], "note": [note]})
    parquet.write_table(table, tmp_path / "r.parquet")
    found, notes = read(tmp_path, tables=(TABLE,))
    assert not any(entry.text for entry in notes.studies.values())
    assert len(found.skipped + notes.skipped) == 1 and "UTF-8" in (found.skipped + notes.skipped)[0].reason


@pytest.mark.parametrize(
    "written, stated", [("ISO_IR 192", None), ("ISO_IR 192", "ISO_IR 100"), ("ISO_IR 100", None), ("ISO_IR 100",
    "ISO_IR 192"),
                        ("ISO_IR 100", "ISO_IR 100"), ("ISO_IR 192", "ISO_IR 192")],
)  # fmt: skip
@pytest.mark.parametrize("implicit", [False, True])
def test_a_header_of_a_missing_or_wrong_character_set_is_read(
    written: str, stated: str | None, implicit: bool, tmp_path: Path
) -> None:
    ds = dicom(np.zeros((2, 2), np.uint8), SpecificCharacterSet=written, PatientName=NAME)
    if implicit:
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
    path = save(ds, tmp_path / "f.dcm")
    path.write_bytes(path.read_bytes().replace(written.encode(), (stated or " " * len(written)).encode()))
    assert str(open_dicom(path).PatientName) == NAME


def test_a_header_whose_name_was_lost_is_told(tmp_path: Path) -> None:
    film(tmp_path, PatientName="M?ller^J?rgen")
    (tmp_path / "A1.txt").write_text("Jürgen Müller ist stabil.")
    found, notes = read(tmp_path)
    assert found.unusable["name"].total() == 1
    assert [entry.text for entry in notes.studies.values()] == ["[NAME] ist stabil."]


# ---------------------------------------------------------------- FHIR


def fhir(folder: Path, *resources: dict[str, object], name: str = "r.json") -> None:
    bundle = {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"resource": one} for one in resources],
    }
    (folder / name).write_text(json.dumps(bundle))


def document(content: bytes, kind: str, **elements: object) -> dict[str, object]:
    data = base64.b64encode(content).decode()
    return {"resourceType": "DocumentReference", "status": "current", "subject": {"reference": "Patient/p"},
            "date": "2020-03-10T10:00:00Z", "content": [{"attachment": {"contentType": kind, "data": data}}],
            **elements}  # fmt: skip


PATIENT = {"resourceType": "Patient", "id": "p", "identifier": [{"value": "P1"}]}


@pytest.mark.parametrize(
    "kind, content",
    [("text/plain; charset=iso-8859-1", "Bei Jürgen Müller.".encode("latin-1")), ("text/plain",
     "Bei Jürgen Müller.".encode()),
     ("text/plain; charset=UTF-16", "Bei Jürgen Müller.".encode("utf-16")), ("text/plain;charset=\"utf-8\"",
     "Bei Jürgen Müller.".encode("cp1252")),
     ("text/rtf", rb"{\rtf1\ansi\ansicpg1252 Bei J\'fcrgen M\'fcller.}"), ("application/rtf",
     rb"{\rtf1\ansi Bei J\'fcrgen M\'fcller.}"),
     ("text/html", b"<p>Bei J&uuml;rgen M&#252;ller.</p>"), ("ASCII Text", b"Bei Juergen Mueller.")],
)  # fmt: skip
def test_attachments_are_decoded_by_what_they_state(kind: str, content: bytes, tmp_path: Path) -> None:
    film(tmp_path, PatientName=NAME)
    fhir(tmp_path, PATIENT, document(content, kind))
    assert texts(tmp_path) == ["Bei [NAME]."]


def test_everybody_of_a_bundle_is_kept_out_of_its_notes(tmp_path: Path) -> None:
    film(tmp_path, PatientName=NAME)
    contact = {"name": {"family": "Zuckmayer", "given": ["Ulla"]}, "telecom": [{"value": "05141 77"}]}
    person = {
        **PATIENT,
        "contact": [contact],
        "address": [{"line": ["Weidenhof 5"], "city": "Wathlingen", "postalCode": "29339"}],
    }
    doctor = {"resourceType": "Practitioner", "id": "d", "name": [{"family": "Brzezinski", "given": ["Jan"]}]}
    clinic = {"resourceType": "Organization", "id": "o", "name": "Lindenpraxis"}
    note = b"Ulla Zuckmayer (05141 77), Weidenhof 5, 29339 Wathlingen; Brzezinski in Lindenpraxis; Kowalczyk sah es"
    fhir(
        tmp_path,
        person,
        doctor,
        clinic,
        document(note, "text/plain", author=[{"reference": "x/1", "display": "Eva Kowalczyk"}]),
    )
    [text] = texts(tmp_path)
    for word in (
        "Ulla",
        "Zuckmayer",
        "05141",
        "Weidenhof",
        "Wathlingen",
        "29339",
        "Brzezinski",
        "Lindenpraxis",
        "Kowalczyk",
    ):
        assert word not in text
    assert text.endswith("[NAME] sah es")


def test_contained_patients_and_exports_with_a_mark_are_read(tmp_path: Path) -> None:
    film(tmp_path)
    inner = {**PATIENT, "name": [{"family": "Zander"}]}
    report = {"resourceType": "DiagnosticReport", "status": "final", "code": {"text": "CXR"}, "contained": [inner],
              "subject": {"reference": "#p"}, "effectiveDateTime": "2020-03-10",
              "conclusion": "Effusion,\u2028Zander."}  # fmt: skip
    lines = json.dumps(report, ensure_ascii=False) + "\r\n"
    (tmp_path / "r.ndjson").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert texts(tmp_path) == ["IMPRESSION: Effusion,\u2028[NAME]."]


def test_one_bad_row_loses_that_row_alone(tmp_path: Path) -> None:
    for number in range(4):
        film(tmp_path, f"P{number}", f"A{number}")
    rows = [
        "pid,acc,note",
        'P0,A0,"Effusion."',
        'P1,A1,"Patient said "fine" today, effusion"',
        'P2,A2,5" needle',
        "P3,A3,No effusion.",
    ]
    (tmp_path / "r.csv").write_text("\n".join(rows) + "\n")
    found, notes = read(tmp_path, tables=(TABLE,))
    texts = sorted(entry.text for entry in notes.studies.values())
    assert texts == ['5" needle', "Effusion.", "No effusion."]
    assert [one.origin.rpartition(" ")[2] for one in found.skipped] == ["2"]
