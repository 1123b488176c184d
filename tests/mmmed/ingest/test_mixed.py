"""One run over every kind of source gives one manifest in which each study has what belongs to it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
import soundfile
import wfdb
from PIL import Image
from pydicom import Dataset, Sequence
from pydicom.data import get_testdata_file
from pydicom.fileset import FileSet

from mmmed.config import DataConfig
from mmmed.data.manifest import read_manifest
from mmmed.deidentify import SiteKey
from mmmed.ingest import IngestReport, ingest, load_options
from mmmed.tasks import Classification
from tests.mmmed.dicom.files import dicom, save
from tests.mmmed.ingest.documents import ccda_document

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
KEY = SiteKey(bytes(range(32)))
SR = "1.2.840.10008.5.1.4.1.1.88.11"
FILES = ("image", "volume", "audio", "waveform")
LOINC, SNOMED = "http://loinc.org", "http://snomed.info/sct"

OPTIONS = r"""
site = "north"
sections = ["history", "findings", "other"]

[[tables]]
files = "patients.csv"
patient = "pid"
names = ["name"]
birth_date = "born"
sex = "sex"
keep = ["ward"]

[[tables]]
files = "labs.csv"
patient = "pid"
date = "day"
decimal = ","
values.crp = { column = "CRP", unit = "mg/dL" }
codes = { icd = "ICD10" }

[[tables]]
files = "lis.csv"
patient = "pid"
date = "day"
results = { code = "test", value = "result", unit = "unit", system = "LOCAL" }

[[tables]]
files = "files.csv"
patient = "pid"
study = "acc"
file = "path"
text = "note"

[values.crp]
unit = "mg/L"
codes = ["LOINC:1988-5"]
range = [0, 700]

[values.creatinine]
unit = "mg/dL"
codes = ["LOCAL:KREA", "LOINC:2160-0"]
molar_mass = 113.12

[values.lvef]
unit = "%"
codes = ["LOINC:10230-1"]

[labels.pneumonia]
codes = ["ICD10:J18", "SNOMED:233604007"]

[labels.effusion]
text = "effusion"

[labels.icu]
column = "icu"
"""


def _film(seed: int) -> np.ndarray:
    y, x = np.mgrid[:96, :96] / 96
    draw = np.random.default_rng(seed)
    waves = sum(draw.normal() * np.sin(draw.uniform(2, 9) * x + draw.uniform(2, 9) * y) for _ in range(6))
    return (128 + 100 * waves / np.abs(waves).max()).astype(np.uint8)


def _study(number: int, day: str = "20200310", **elements: object) -> Dataset:
    ds = dicom(_film(number), PatientID=f"MHH{number:06}", PatientName=f"Name{number:03}^Erika", **elements)
    ds.AccessionNumber, ds.StudyDate, ds.StudyTime, ds.StudyID = f"ACC{number:05}", day, "120000", "1"
    ds.SeriesNumber, ds.InstanceNumber = 1, 1
    return ds


def _sr(study: Dataset) -> Dataset:
    """Findings as text, a coded finding that is absent, a measurement in percent."""
    report = dicom(np.zeros((2, 2), np.uint8), sop_class=SR, PatientID=study.PatientID)
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(report, keyword)
    report.StudyInstanceUID, report.StudyDate = study.StudyInstanceUID, study.StudyDate

    def coded(value: str, scheme: str, meaning: str) -> Sequence:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
        return Sequence([item])

    text, code, absent, measured = Dataset(), Dataset(), Dataset(), Dataset()
    text.ValueType, text.TextValue = "TEXT", "Erika Name003 has an effusion."
    text.ConceptNameCodeSequence = coded("121070", "DCM", "Findings")
    code.ValueType, code.ConceptCodeSequence = "CODE", coded("233604007", "SCT", "Pneumonia")
    code.ConceptNameCodeSequence = coded("121071", "DCM", "Finding")
    absent.ValueType, absent.RelationshipType = "CODE", "HAS CONCEPT MOD"
    absent.ConceptCodeSequence = coded("2667000", "SCT", "Absent")
    code.ContentSequence = Sequence([absent])
    measured.ValueType, measured.ConceptNameCodeSequence = "NUM", coded("10230-1", "LN", "LVEF")
    value = Dataset()
    value.NumericValue, value.MeasurementUnitsCodeSequence = "55", coded("%", "UCUM", "percent")
    measured.MeasuredValueSequence = Sequence([value])
    report.ValueType, report.ContentSequence = "CONTAINER", Sequence([text, code, measured])
    return report


def _resource(kind: str, patient: str, **elements: object) -> dict[str, object]:
    status = {} if kind in ("Condition", "Patient") else {"status": "final"}
    return {"resourceType": kind, "subject": {"reference": f"Patient/{patient}"}, **status, **elements}


def _concept(system: str, value: str) -> dict[str, object]:
    return {"coding": [{"system": system, "code": value}]}


def _fhir(root: Path) -> None:
    patient = {
        "resourceType": "Patient", "id": "p4", "identifier": [{"value": "MHH000004"}], "gender": "male",
        "birthDate": "1960-05-01", "name": [{"family": "Fhirmann", "given": ["Otto"]}],
    }  # fmt: skip
    crp = {"code": _concept(LOINC, "1988-5"), "effectiveDateTime": "2020-03-11T08:00:00Z"}
    quantity = {"value": 3.1, "unit": "mg/dl", "system": "http://unitsofmeasure.org", "code": "mg/dL"}
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": one} for one in (
        patient,
        _resource("DiagnosticReport", "p4", code={"text": "CXR"}, conclusion="Otto Fhirmann: no effusion.",
                  conclusionCode=[_concept(SNOMED, "60046008")], effectiveDateTime="2020-03-10"),
        _resource("Observation", "p4", valueQuantity=quantity, **crp),
        _resource("Observation", "p4", valueQuantity={"value": 9, "code": "furlongs"}, **crp),
        _resource("Condition", "p4", code=_concept("http://hl7.org/fhir/sid/icd-10", "J18.9"),
                  recordedDate="2020-03-10", clinicalStatus=_concept("http://x", "active")),
    )]}  # fmt: skip
    (root / "bundle.json").write_text(json.dumps(bundle))
    # A bulk export: patients stand in a file of their own.
    (root / "Patient.ndjson").write_text(
        json.dumps({**patient, "id": "p5", "identifier": [{"value": "MHH000005"}], "birthDate": "1961-05-01"})
    )
    observations = [
        _resource("Observation", "p5", code=_concept(LOINC, "2160-0"), effectiveDateTime="2020-03-10",
                  valueQuantity={"value": 88.4, "code": "umol/L"}),
        _resource("Observation", "p5", code=_concept(SNOMED, "233604007"), effectiveDateTime="2020-03-10",
                  valueCodeableConcept=_concept(SNOMED, "260415000")),
        _resource("Observation", "p5", code=_concept(LOINC, "1988-5"), effectiveDateTime="2019-01-01",
                  valueQuantity={"value": 1, "code": "mg/L"}),
        {**_resource("Observation", "p5", code=_concept(LOINC, "1988-5"),
                     valueQuantity={"value": 1, "code": "mg/L"}), "status": "entered-in-error"},
    ]  # fmt: skip
    (root / "Observation.ndjson").write_text("\n".join(map(json.dumps, observations)))


def _tables(root: Path) -> None:
    (root / "patients.csv").write_text(
        "pid,name,born,sex,ward,icu\nMHH000001,Zuse Konrad,1930-03-23,m,7 East,1\nMHH000002,,,f,,0\n"
    )
    (root / "labs.csv").write_text(
        'pid,day,CRP,icd\nMHH000001,2020-03-12,"1,5",J18.0\nMHH000002,2020-03-10,haemolytic,I50.1\n'
        'MHH000003,2020-03-10,"99999,0",\nMHH000006,2020-03-10,,J18.9A\nMHH000009,2020-03-10,"2,0",\n'
    )
    (root / "lis.csv").write_text(
        "pid,day,test,result,unit\nMHH000001,2020-03-10,KREA,0.9,mg/dL\nMHH000002,2020-03-10,KREA,<44.2,umol/L\n"
        "MHH000002,2020-03-10,NA,140,mmol/L\n"
    )
    (root / "media").mkdir()
    Image.fromarray(_film(70)).save(root / "media" / "photo.png")
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 5, 6), np.int16), np.eye(4)), root / "media" / "v.nii.gz")
    for number in range(2):
        tone = 0.5 * np.sin(np.arange(8000) * (0.1 + 0.01 * number))
        soundfile.write(root / "media" / f"heart{number}.wav", tone, 4000)
    wfdb.wrsamp("r1", fs=360, units=["mV"], sig_name=["II"], p_signal=np.sin(np.arange(720) / 9)[:, None], fmt=["16"],
                write_dir=str(root / "media"), comments=["Muster"])  # fmt: skip
    (root / "files.csv").write_text(
        "pid,acc,path,note\nMHH000007,D7,media/photo.png,mole of MHH000007\nMHH000008,,media/v.nii.gz,\n"
        "MHH000001,ACC00001,media/heart0.wav,\nMHH000001,ACC00001,media/heart1.wav,\nMHH000002,ACC00002,media/r1,\n"
        "MHH000002,ACC00002,media/absent.wav,\n"
    )


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hospital")
    save(_study(1), root / "pacs" / "1" / "film.dcm")
    save(_study(2), root / "pacs" / "2" / "film.dcm")
    (root / "pacs" / "2" / "note.txt").write_text("HISTORY: cough\nFINDINGS: No effusion.\nIMPRESSION: fine")
    third = _study(3)
    save(third, root / "pacs" / "3" / "film.dcm")
    save(_sr(third), root / "pacs" / "3" / "report.dcm")
    fourth = _study(4)
    fifth = save(_study(5), root / "outside" / "5.dcm")
    with zipfile.ZipFile(root / "export.zip", "w") as archive:
        archive.write(fifth, "exam/film.dcm")
        archive.write(save(fourth, root / "outside" / "4.dcm"), "other/film.dcm")
        archive.writestr("exam/ACC00005.txt", "FINDINGS: large effusion")
    disc = FileSet()
    disc.add(_study(6))
    disc.write(root / "disc")
    (root / "ccda.xml").write_text(
        ccda_document(patient="MHH000006", accession="ACC00006", name=("Erika", "Name006"))
    )
    ecg = pydicom.dcmread(str(get_testdata_file("waveform_ecg.dcm")))
    ecg.PatientID, ecg.StudyInstanceUID, ecg.PatientName = (
        "MHH000003",
        third.StudyInstanceUID,
        "Name003^Erika",
    )
    ecg.StudyDate = third.StudyDate
    save(ecg, root / "pacs" / "3" / "ecg.dcm")
    _fhir(root)
    _tables(root)
    (root / "options.toml").write_text(OPTIONS)
    return root


@pytest.fixture(scope="module")
def run(hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[IngestReport, pd.DataFrame, Path]:
    out = tmp_path_factory.mktemp("data")
    sources = [
        *(hospital / name for name in ("pacs", "export.zip", "disc/DICOMDIR", "ccda.xml", "media")),
        *sorted(hospital.glob("*.csv")), *sorted(hospital.glob("*.*json")),
    ]  # fmt: skip
    report = ingest(sources, out, key=KEY, options=load_options(hospital / "options.toml"))
    return report, pd.read_parquet(report.table), out


Run = tuple[IngestReport, pd.DataFrame, Path]


def _rows(table: pd.DataFrame, number: int) -> pd.DataFrame:
    return table[table["patient_id"] == KEY.pseudonym("patient", f"MHH{number:06}")]


def test_every_patient_has_one_study_with_its_files(run: Run) -> None:
    report, table, out = run
    files = {
        number: [int((_rows(table, number)[c].drop_duplicates() != "").sum()) for c in FILES]
        for number in range(1, 10)
    }  # fmt: skip
    assert files == {
        1: [1, 0, 2, 0], 2: [1, 0, 0, 1], 3: [1, 0, 0, 1], 4: [1, 0, 0, 0], 5: [1, 0, 0, 0], 6: [1, 0, 0, 0],
        7: [1, 0, 0, 0], 8: [0, 1, 0, 0], 9: [0, 0, 0, 0],
    }, report.summary()  # fmt: skip
    assert table.groupby("patient_id")["study_id"].nunique().eq(1).all() and len(table) == 10
    assert (report.images, report.volumes, report.audio, report.waveforms) == (7, 1, 2, 2)
    for column in FILES:
        assert all((out / name).is_file() for name in table[column] if name)
    both = _rows(table, 1)
    assert both["image"].nunique() == 1 and both["audio"].nunique() == 2  # two sounds beside one film


def test_notes_are_paired_cut_to_sections_and_scrubbed(run: Run) -> None:
    _, table, _ = run
    texts = {number: _rows(table, number)["text"].iloc[0] for number in range(1, 10)}
    assert texts == {
        1: "", 2: "cough\nNo effusion.", 3: "[NAME] has an effusion.\nPneumonia\nAbsent\nLVEF: 55 percent",
        4: "", 5: "large effusion",
        6: "Medications\nAspirin\n[NAME] has a cough.\nSmoker\nLungs | clear\nSmall effusion on the left.",
        7: "mole of [ID]", 8: "", 9: "",
    }  # fmt: skip


def test_values_stand_in_one_unit_and_what_is_missing_stays_so(run: Run) -> None:
    report, table, _ = run
    value = {
        column: {n: _rows(table, n)[column].iloc[0] for n in range(1, 10)}
        for column in ("crp", "creatinine", "lvef")
    }
    assert value["crp"] == pytest.approx(
        {1: 15.0, 2: np.nan, 3: np.nan, 4: 31.0, 5: np.nan, 6: 120.0, 7: np.nan, 8: np.nan, 9: 20.0},
        nan_ok=True,
    )
    assert value["creatinine"][1] == 0.9 and value["creatinine"][2] == pytest.approx(0.5, rel=1e-3)
    assert value["creatinine"][5] == pytest.approx(1.0, rel=1e-3) and value["lvef"][3] == 55
    assert np.isnan(value["lvef"][1]) and table["crp"].dtype == "float64"
    assert dict(report.unusable["crp"]) == {
        "left empty, not a number": 1, "left empty, outside the possible range": 1, "left empty, in an unknown unit": 1,
        "a limit of measurement, taken as the value": 0,
    }  # fmt: skip
    assert report.unusable["creatinine"]["a limit of measurement, taken as the value"] == 1
    assert report.missing["crp"] == pytest.approx(5 / 9)
    assert (
        "crp: 1 left empty, not a number" in report.summary()
        and "empty in  56% of studies: crp" in report.summary()
    )
    assert any("more than 7 days" in one.reason for one in report.skipped)
    assert any("entered in error" in one.reason for one in report.skipped)


def test_labels_come_from_codes_reports_and_columns(run: Run) -> None:
    _, table, _ = run
    labels = {
        column: [_rows(table, n)[column].iloc[0] for n in range(1, 10)]
        for column in ("pneumonia", "effusion", "icu")
    }
    expected: dict[str, list[object]] = {
        # 3: coded as absent in the SR; 5: not detected; 6: its C-CDA states what the table's "A" excludes
        "pneumonia": [1, 0, 0, 1, 0, 1, None, None, None],
        "effusion": [None, 0, 1, 0, 1, 1, 0, None, None],
        "icu": ["1", "0", *[None] * 7],
    }
    for column, values in labels.items():
        assert [None if pd.isna(value) else value for value in values] == expected[column], column


def test_facts_of_the_patient_come_from_any_source(run: Run) -> None:
    _, table, _ = run
    first, fourth = _rows(table, 1).iloc[0], _rows(table, 4).iloc[0]
    assert first["sex"] == "M" and first["age"] == 89 and first["ward"] == "7 East"
    assert fourth["sex"] == "M" and fourth["age"] == 59
    assert _rows(table, 2)["sex"].iloc[0] == "F" and np.isnan(_rows(table, 2)["age"].iloc[0])


def test_nobody_is_named_anywhere(run: Run) -> None:
    report, table, out = run
    assert report.warnings == []
    words = [
        b"name00",
        b"erika",
        b"fhirmann",
        b"zuse",
        b"konrad",
        b"mhh0",
        b"acc0",
        b"1930",
        b"1960",
        b"hauptstr",
        b"heart0",
    ]
    for file in (path for path in out.rglob("*") if path.is_file()):
        content = file.read_bytes().lower()
        assert not [word for word in words if word in content], file
    assert not [w for w in words if w.decode() in table.to_csv().lower()]


def test_the_manifest_trains(run: Run) -> None:
    _, _, out = run
    data = DataConfig(
        source="x", table="data.parquet", image="image", text="text", where={"effusion": ("0", "1")}
    )
    assert len(read_manifest(out, data, Classification(label="effusion")).records) == 6


def test_a_second_run_changes_nothing(run: Run, hospital: Path) -> None:
    report, table, out = run
    before = {
        path: path.stat().st_mtime_ns
        for path in out.rglob("*.*")
        if path.suffix in (".png", ".flac", ".npz", ".gz")
    }
    sources = [
        *(hospital / name for name in ("pacs", "export.zip", "disc/DICOMDIR", "ccda.xml", "media")),
        *sorted(hospital.glob("*.csv")), *sorted(hospital.glob("*.*json")),
    ]  # fmt: skip
    again = ingest(sources, out, key=KEY, options=load_options(hospital / "options.toml"))
    pd.testing.assert_frame_equal(pd.read_parquet(again.table), table)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert again.summary() == report.summary()
