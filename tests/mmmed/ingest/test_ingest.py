from __future__ import annotations

import base64
import csv
import json
import multiprocessing
import os
import shutil
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
import regex
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset, Sequence

from mmmed.config import DataConfig
from mmmed.data.image import read_image
from mmmed.data.manifest import read_manifest
from mmmed.deidentify import SiteKey
from mmmed.deidentify.header import MASKED, METHOD, shift_date
from mmmed.deidentify.keys import key_of
from mmmed.errors import DataError
from mmmed.ingest import IngestOptions, IngestReport, Skipped, decide, deidentify, ingest
from mmmed.ingest import sources as sources_module
from mmmed.ingest.fhir import Named, fhir_resources
from mmmed.ingest.options import LabelOptions, TableOptions
from mmmed.ingest.records import MAX_NOTE_CHARACTERS, Report, plain, text_file
from mmmed.ingest.scan import scan
from mmmed.ingest.sections import finding_stated, select_sections
from mmmed.ingest.sources import Found, find_files
from mmmed.ingest.tables import table_rows
from mmmed.tasks import Classification
from tests.mmmed.dicom.files import CR, CT, dicom, save

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
KEY = SiteKey(bytes(range(32)))
OPTIONS = IngestOptions(site="north", workers=2)
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
SR = "1.2.840.10008.5.1.4.1.1.88.11"


def _film(seed: int, side: int = 96) -> np.ndarray:
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    waves = sum(draw.normal() * np.sin(draw.uniform(2, 9) * x + draw.uniform(2, 9) * y) for _ in range(6))
    return (128 + 100 * waves / np.abs(waves).max()).astype(np.uint8)


def _study(folder: Path, number: int, patient: str, name: str, **elements: object) -> Dataset:
    ds = dicom(
        _film(number), PatientID=patient, PatientName=name, AccessionNumber=f"ACC{number:05}", **elements
    )
    ds.StudyDate, ds.PatientBirthDate, ds.ViewPosition = "20200310", "19530323", "PA"
    save(ds, folder / f"{name.replace('^', '-')}-{number}.dcm")
    return ds


def _run(
    sources: list[Path], out: Path, options: IngestOptions = OPTIONS
) -> tuple[IngestReport, pd.DataFrame]:
    report = ingest(sources, out, key=KEY, options=options)
    return report, pd.read_parquet(report.table)


def _reasons(report: IngestReport) -> dict[str, str]:
    return {one.origin.rpartition("/")[2]: one.reason for one in report.skipped}


def _pseudonym(patient: str) -> str:
    return KEY.pseudonym("patient", patient)


def test_a_data_set_keeps_the_key_that_named_its_patients(tmp_path: Path) -> None:
    _study(tmp_path / "a", 1, "MHH111111", "Muster^Erika")
    _run([tmp_path / "a"], tmp_path / "out")
    assert key_of(tmp_path / "out") == key_of(tmp_path / "out") != ""
    table = (tmp_path / "out" / "data.parquet").read_bytes()
    with pytest.raises(DataError, match="named by another site key"):
        ingest([tmp_path / "a"], tmp_path / "out", key=SiteKey(bytes(32)), options=OPTIONS)
    assert (tmp_path / "out" / "data.parquet").read_bytes() == table
    ingest([tmp_path / "a"], tmp_path / "else", key=SiteKey(bytes(32)), options=OPTIONS)
    assert key_of(tmp_path / "else") != key_of(tmp_path / "out")
    assert key_of(tmp_path / "a") == ""
    (tmp_path / "out" / "pseudonyms.json").write_text("[]")
    with pytest.raises(DataError, match="ingest again"):
        key_of(tmp_path / "out")


# ---------------------------------------------------------------- the whole way


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Three patients with every kind of source, and things that are no images."""
    root = tmp_path / "hospital"
    first = _study(root / "a", 1, "MHH111111", "Muster^Erika")
    (root / "a" / "note.txt").write_text(
        "HISTORY: Erika Muster, MHH-111111, cough.\nIMPRESSION: No effusion."
    )
    second = _study(root / "b", 2, "MHH222222", "Jürgens^Max")
    report = dicom(np.zeros((2, 2), np.uint8), sop_class=SR, PatientID="MHH222222", PatientName="Jürgens^Max")
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(report, keyword)
    code, content = Dataset(), Dataset()
    code.CodeMeaning, content.ValueType = "Findings", "TEXT"
    content.ConceptNameCodeSequence, content.TextValue = (
        Sequence([code]),
        "Mr. Juergens has a pleural effusion.",
    )
    report.StudyInstanceUID, report.ContentSequence = second.StudyInstanceUID, Sequence([content])
    save(report, root / "b" / "report.dcm")
    _study(root / "c", 3, "MHH333333", "Probe^Anna")
    save(dicom(np.zeros((4, 4), np.uint8), sop_class=SEG), root / "c" / "seg.dcm")
    (root / "c" / "broken.dcm").write_bytes((root / "c" / "Probe-Anna-3.dcm").read_bytes()[:700])
    (root / "c" / "readme.md").write_text("not data")
    with (root / "labs.csv").open("w") as table:
        writer = csv.writer(table)
        writer.writerow(["pid", "acc", "crp", "comment", "secret"])
        writer.writerow(["MHH111111", "ACC00001", "120", "seen by Erika Muster", "do not keep"])
        writer.writerow(["MHH999999", "ACC00002", "7", "", "another patient than the study's"])
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [
        {"resource": {"resourceType": "Patient", "id": "p3", "identifier": [{"value": "MHH333333"}]}},
        {"resource": {"resourceType": "DiagnosticReport", "id": "r", "status": "final", "code": {"text": "CXR"},
                      "subject": {"reference": "Patient/p3"}, "identifier": [{"value": "ACC00003"}],
                      "conclusion": "Anna Probe: effusion ruled out."}},
    ]}  # fmt: skip
    (root / "bundle.json").write_text(json.dumps(bundle))
    assert first.StudyInstanceUID != second.StudyInstanceUID
    return root


def test_every_source_becomes_one_table_without_identifiers(hospital: Path, tmp_path: Path) -> None:
    options = IngestOptions(
        site="north", workers=2, labels={"effusion": LabelOptions(text="effusion")},
        tables=(TableOptions(patient="pid", study="acc", keep=("crp", "comment")),),
    )  # fmt: skip
    out = tmp_path / "data"
    report, table = _run([hospital], out, options)
    assert (report.rows, report.patients, report.images, report.notes) == (3, 3, 3, 3)
    rows = table.set_index("patient_id")
    first, second, third = (rows.loc[_pseudonym(p)] for p in ("MHH111111", "MHH222222", "MHH333333"))
    assert first.text == "HISTORY: [NAME], [ID], cough.\nIMPRESSION: No effusion."
    assert first.crp == "120" and first.comment == "seen by [NAME]" and "secret" not in rows
    assert (
        second.text == "Findings: Mr. [NAME] has a pleural effusion."
        and third.text == "IMPRESSION: [NAME]: effusion ruled out."
    )
    assert list(table.set_index("patient_id").effusion[[first.name, second.name, third.name]]) == [0, 1, 0]
    assert first["view"] == "PA" and first.modality == "CR" and first.site == "north"
    assert first.study_date != "20200310" and len(first.study_date) == 8
    assert report.replaced["NAME"] >= 4 and report.quarantined == [] and report.review.waiting == ()
    reasons = _reasons(report)
    assert "segmentation" in reasons["seg.dcm"] and "not a supported kind" in reasons["readme.md"]
    assert "another patient" in reasons["labs.csv row 2"] and "broken.dcm" in reasons
    for file in (path for path in out.rglob("*") if path.is_file()):
        content = file.read_bytes().lower()
        for identifier in (b"muster", b"erika", b"mhh", b"acc0", b"19530323", b"20200310", b"probe", b".dcm"):
            assert identifier not in content, (file, identifier)


def test_images_are_what_the_reader_reads_and_the_table_trains(hospital: Path, tmp_path: Path) -> None:
    options = IngestOptions(site="north", workers=2, labels={"effusion": LabelOptions(text="effusion")})
    _, table = _run([hospital], tmp_path / "data", options)
    row = table.set_index("patient_id").loc[_pseudonym("MHH222222")]
    written = read_image(tmp_path / "data" / row.image, channels=1)
    original = read_image(hospital / "b" / "Jürgens-Max-2.dcm", channels=1)
    np.testing.assert_allclose(written, original, atol=0.5 / 255 + 1e-6)
    manifest = read_manifest(
        tmp_path / "data", DataConfig(source="x", table="data.parquet"), Classification(label="effusion")
    )
    assert len(manifest.records) == 3 and manifest.sites == ["north"]


def test_ct_slices_become_a_volume_in_hounsfield_units(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    slices = draw.integers(0, 2000, (5, 16, 20)).astype(np.int16)
    base = dicom(slices[0], sop_class=CT)
    for number in (3, 0, 4, 1, 2):
        ds = dicom(slices[number], sop_class=CT, RescaleSlope=1, RescaleIntercept=-1024)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = base.StudyInstanceUID, base.SeriesInstanceUID
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [10, 20, 5 + 3 * number], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing = [0.7, 0.5]
        save(ds, tmp_path / "in" / f"{number}.dcm")
    report, table = _run([tmp_path / "in"], tmp_path / "out")
    assert (report.images, report.volumes) == (0, 1)
    volume = nibabel.load(tmp_path / "out" / table.volume[0])
    np.testing.assert_array_equal(np.asarray(volume.dataobj), np.moveaxis(slices, 0, -1) - 1024)
    np.testing.assert_allclose(volume.affine @ [2, 1, 4, 1], [-10 - 0.5, -20 - 2 * 0.7, 5 + 12, 1], atol=1e-4)
    assert json.loads(table["shape"][0]) == [16, 20, 5] and json.loads(table.spacing_mm[0]) == [0.7, 0.5, 3.0]
    (tmp_path / "in" / "2.dcm").unlink()
    with pytest.raises(DataError, match="nothing usable") as caught:
        _run([tmp_path / "in"], tmp_path / "out2")
    assert "missing slices" in str(caught.value)


def test_volumes_with_text_in_one_slice_are_quarantined(tmp_path: Path) -> None:
    slices = np.stack([np.asarray(Image.fromarray(_film(1)).resize((160, 160)))] * 10).astype(np.int16)
    clean = slices.copy()
    label = Image.new("L", (160, 160))
    ImageDraw.Draw(label).text((20, 70), "Muster 2.1.1930", fill=255, font=ImageFont.load_default(size=16))
    slices[7][np.asarray(label) > 128] = 255
    base = dicom(slices[0], sop_class=CT)
    for number, values in enumerate(slices):
        ds = dicom(values, sop_class=CT)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = base.StudyInstanceUID, base.SeriesInstanceUID
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing = [1, 1]
        save(ds, tmp_path / "in" / f"{number}.dcm")
    for name, volume, mm in (
        ("slice", np.moveaxis(slices, 0, 2), (1, 1, 3)), ("first", slices, (1, 1, 1)),
        ("clean", np.moveaxis(clean, 0, 2), (1, 1, 3)),
    ):  # fmt: skip
        nibabel.save(nibabel.Nifti1Image(volume, np.diag([*mm, 1])), tmp_path / "in" / f"{name}.nii.gz")
    (tmp_path / "in" / "t.csv").write_text("p,v\nA,slice.nii.gz\nB,first.nii.gz\nC,clean.nii.gz\n")
    options = IngestOptions(site="s", tables=(TableOptions(patient="p", file="v"),))
    report, table = _run([tmp_path / "in"], tmp_path / "out", options)
    assert list(table.patient_id) == [_pseudonym("C")] and report.volumes == 1
    names = {Path(one.origin).name for one in report.quarantined}
    assert names == {*(f"{number}.dcm" for number in range(10)), "slice.nii.gz", "first.nii.gz"}


def test_slices_in_which_text_was_masked_before_become_no_volume(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    base = dicom(draw.integers(0, 2000, (16, 20)).astype(np.int16), sop_class=CT)
    for number in range(4):
        ds = dicom(draw.integers(0, 2000, (16, 20)).astype(np.int16), sop_class=CT)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = base.StudyInstanceUID, base.SeriesInstanceUID
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing = [1, 1]
        ds.PatientID = KEY.copy_id("A")
        if number == 2:
            ds.DeidentificationMethod = [METHOD, MASKED]
        save(ds, tmp_path / "in" / f"{number}.dcm")
    with pytest.raises(DataError, match="text was masked in this slice"):
        _run([tmp_path / "in"], tmp_path / "out")


def test_table_images_and_patients_without_images(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    rgb = np.stack([_film(1), _film(2), _film(3)], axis=-1)
    Image.fromarray(rgb).save(tmp_path / "in" / "x.png")
    (tmp_path / "secret.png").write_bytes((tmp_path / "in" / "x.png").read_bytes())
    rows = [["p", "img", "note"], ["A1", "x.png", "a mole"], ["A2", "", "text alone"], ["A3", "../secret.png", ""],
            ["A4", "absent.png", ""], ["", "x.png", "nobody"]]  # fmt: skip
    (tmp_path / "in" / "t.csv").write_text("\n".join(",".join(row) for row in rows))
    options = IngestOptions(site="s", tables=(TableOptions(patient="p", text="note", file="img"),))
    report, table = _run([tmp_path / "in"], tmp_path / "out", options)
    by_patient = table.set_index("patient_id")
    assert sorted(by_patient.index) == sorted([_pseudonym("A1"), _pseudonym("A2")])
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "out" / by_patient.image[_pseudonym("A1")])), rgb
    )
    assert by_patient.text[_pseudonym("A2")] == "text alone" and by_patient.image[_pseudonym("A2")] == ""
    assert sum("not among the sources" in one.reason for one in report.skipped) == 2
    assert any("without a patient id" in one.reason for one in report.skipped)


def test_nifti_volumes_keep_values_and_affine_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    values = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    affine = np.diag([-2.0, 3.0, 4.0, 1.0])
    image = nibabel.Nifti1Image(values, affine)
    image.header["descrip"] = b"Muster Erika"
    nibabel.save(image, tmp_path / "in" / "v.nii.gz")
    nibabel.save(
        nibabel.Nifti1Image(np.zeros((2, 2, 2, 2), np.float32), affine), tmp_path / "in" / "four.nii"
    )
    (tmp_path / "in" / "broken.nii").write_bytes(b"no volume")
    (tmp_path / "in" / "t.csv").write_text("p,v\nA,v.nii.gz\nB,four.nii\nC,broken.nii\n")
    options = IngestOptions(site="s", tables=(TableOptions(patient="p", file="v"),))
    report, table = _run([tmp_path / "in"], tmp_path / "out", options)
    assert (report.volumes, report.images, len(table)) == (1, 0, 1)
    copy = nibabel.load(tmp_path / "out" / table.volume[0])
    np.testing.assert_array_equal(np.asarray(copy.dataobj), values)
    np.testing.assert_allclose(copy.affine, affine)
    assert bytes(copy.header["descrip"].tobytes()).strip(b"\0") == b""
    reasons = " ".join(one.reason for one in report.skipped)
    assert "expected three dimensions" in reasons and "not a readable NIfTI" in reasons


def test_burned_in_text_is_masked_and_pages_of_text_are_quarantined(tmp_path: Path) -> None:
    film = Image.fromarray(_film(1, 512))
    ImageDraw.Draw(film).text((8, 8), "Muster, Erika 23.03.1953", fill=255, font_size=22)
    save(dicom(np.asarray(film), PatientID="A", BurnedInAnnotation="NO"), tmp_path / "in" / "film.dcm")
    page = Image.new("L", (400, 400))
    for row in range(0, 400, 24):
        ImageDraw.Draw(page).text((2, row), "Erika Muster, born 23.03.1953, MHH1", fill=255, font_size=22)
    save(dicom(np.asarray(page), PatientID="B"), tmp_path / "in" / "page.dcm")
    report, table = _run([tmp_path / "in"], tmp_path / "out")
    assert len(table) == 0 and [q.origin.endswith("page.dcm") for q in report.quarantined] == [True]
    decide(tmp_path / "out", report.review.waiting)
    table = pd.read_parquet(report.table)
    masked = np.asarray(Image.open(tmp_path / "out" / table.image[0]))
    assert (masked[10:26, 10:120] == 0).all() and (masked[60:] > 0).any()
    assert len(list((tmp_path / "out" / "images").iterdir())) == 1


def test_a_data_set_below_its_source_is_not_read_as_a_source(tmp_path: Path) -> None:
    _study(tmp_path, 1, "A", "Muster^Erika")
    for _ in range(2):
        report, table = _run([tmp_path], tmp_path / "out")
        assert len(table) == 1 and report.skipped == []


def test_warnings_for_one_id_of_two_people_and_one_image_of_two_ids(tmp_path: Path) -> None:
    one = _study(tmp_path / "in", 1, "A", "Muster^Erika", PatientSex="F")
    other = _study(tmp_path / "in", 2, "A", "Muster^Karl", PatientSex="M")
    copy = dicom(_film(1) + 1, PatientID="B")  # the same film, a little brighter
    save(copy, tmp_path / "in" / "copy.dcm")
    assert one.PatientID == other.PatientID
    report, _ = _run([tmp_path / "in"], tmp_path / "out")
    assert any(_pseudonym("A") in w and "2 sexes" in w for w in report.warnings)
    assert (
        any("nearly identical" in w and _pseudonym("B") in w for w in report.warnings)
        and len(report.warnings) == 2
    )


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_deidentified_copies_show_the_same_without_text(tmp_path: Path, interpretation: str) -> None:
    film = Image.fromarray(_film(1, 512))
    fill = 255 if interpretation == "MONOCHROME2" else 0
    ImageDraw.Draw(film).text((8, 8), "Muster, Erika 23.03.1953", fill=fill, font_size=22)
    source = dicom(np.asarray(film), PatientID="MHH1", PatientName="Muster^Erika",
                   PhotometricInterpretation=interpretation)  # fmt: skip
    source.private_block(0x11, "VENDOR", create=True).add_new(1, "LO", "Muster")
    save(source, tmp_path / "in" / "muster.dcm")
    (tmp_path / "in" / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"muster" * 20)
    report = deidentify([tmp_path / "in"], tmp_path / "out", key=KEY)
    assert (report.written, report.masked) == (1, 1) and len(report.skipped) == 1
    [copy] = (path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"uster" not in copy.read_bytes() and "uster" not in str(copy.relative_to(tmp_path / "out"))
    before, after = read_image(tmp_path / "in" / "muster.dcm", channels=1), read_image(copy, channels=1)
    assert (
        np.ptp(after[0, 10:26, 10:120]) == 0 and after[0, 12, 12] == before.min()
    )  # the darkest value it has
    np.testing.assert_array_equal(before[0, 60:], after[0, 60:])


def test_originals_and_their_copies_are_of_one_patient_whom_a_ledger_knows(tmp_path: Path) -> None:
    source = dicom(_film(1, 256), PatientID="MHH1", StudyDate="20200310")
    save(source, tmp_path / "in" / "1.dcm")
    for once, again in (("in", "copies"), ("copies", "copies of copies")):
        assert deidentify([tmp_path / once], tmp_path / again, key=KEY).written == 1
    for number, folder in enumerate(("in", "copies", "copies of copies")):
        _, table = _run([tmp_path / folder], tmp_path / f"data{number}")
        assert list(table.patient_id) == [_pseudonym("MHH1")]
        assert list(table.study_date) == [shift_date("20200310", KEY.shift_days("MHH1"))]
    report, table = _run([tmp_path / "in", tmp_path / "copies"], tmp_path / "both")
    assert list(table.patient_id) == [_pseudonym("MHH1")] * 2
    assert not any("nearly identical" in warning for warning in report.warnings)


def test_copies_that_another_key_or_nobody_named_are_left_out(tmp_path: Path) -> None:
    save(dicom(_film(1, 256), PatientID="MHH1"), tmp_path / "in" / "1.dcm")
    deidentify([tmp_path / "in"], tmp_path / "copies", key=SiteKey(bytes(32)))
    for patient in (_pseudonym("MHH1"), f"{_pseudonym('MHH1')}-{_pseudonym('MHH1')}", "Muster-"):
        save(
            dicom(_film(1, 256), PatientID=patient, DeidentificationMethod=METHOD),
            tmp_path / "in" / f"{patient}.dcm",
        )
    report, table = _run([tmp_path / "in", tmp_path / "copies"], tmp_path / "data")
    assert list(table.patient_id) == [_pseudonym("MHH1")]
    assert [one.reason.partition(":")[0] for one in report.skipped] == [
        "de-identified copy that this site key did not make"
    ] * 4
    with pytest.raises(DataError, match="nothing usable"):
        _run([tmp_path / "copies"], tmp_path / "foreign")
    assert deidentify([tmp_path / "copies"], tmp_path / "again", key=KEY).written == 0


def test_compressed_and_colour_objects_are_copied_uncompressed(tmp_path: Path) -> None:
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    (tmp_path / "in").mkdir()
    names = ["MR_small_RLE.dcm", "693_J2KI.dcm", "MR_small_bigendian.dcm", "SC_rgb_jpeg_dcmtk.dcm",
             "examples_palette.dcm"]  # fmt: skip
    for number, name in enumerate(names):
        ds = pydicom.dcmread(folder / name)
        ds.PatientID = f"P{number}"
        ds.SOPInstanceUID = f"1.2.3.{number}"
        ds.save_as(tmp_path / "in" / f"{number}.dcm")
    report = deidentify([tmp_path / "in"], tmp_path / "out", key=KEY)
    assert report.written == len(names) and report.skipped == []
    for number in range(len(names)):
        [copy] = (tmp_path / "out" / _pseudonym(f"P{number}")).rglob("*.dcm")
        before, after = (read_image(p, channels=3) for p in (tmp_path / "in" / f"{number}.dcm", copy))
        assert not pydicom.dcmread(copy).file_meta.TransferSyntaxUID.is_compressed
        assert (before != after).mean() < 0.15  # all but masked text, of which an ultrasound has much


def test_text_in_one_frame_of_a_clip_is_blackened_in_the_copy(tmp_path: Path) -> None:
    frames = np.zeros((9, 256, 256), np.uint8)
    frames[:, 60:200, 60:200] = np.arange(9)[:, None, None] * 9 + 60
    text = Image.fromarray(frames[2])
    ImageDraw.Draw(text).text((6, 6), "Muster, Erika 2.1.1930", fill=255, font_size=18)
    frames[2] = np.asarray(text)
    save(dicom(frames, PatientID="A", sop_class="1.2.840.10008.5.1.4.1.1.3.1"), tmp_path / "in" / "clip.dcm")
    report = deidentify([tmp_path / "in"], tmp_path / "out", key=KEY)
    assert (report.written, report.masked, report.skipped) == (1, 1, [])
    [copy] = (tmp_path / "out").rglob("*.dcm")
    pixels = pydicom.dcmread(copy).pixel_array
    assert pixels.shape == frames.shape and pixels[2, :24].max() == 0
    assert (
        report.page is not None
        and f"<code>{copy.relative_to(tmp_path / 'out')}</code>" in report.page.read_text()
    )
    pair = np.asarray(Image.open(report.page.parent / "pairs" / f"{copy.stem}.jpg").convert("L"))
    assert (pair[8:22, 8:150] > 200).sum() > 100  # the text of the third frame is shown
    assert report.page.parent.stat().st_mode & 0o077 == 0
    np.testing.assert_array_equal(pixels[:, 60:], frames[:, 60:])


# ---------------------------------------------------------------- again, and after a kill


def _die_after(folder: Path, out: Path, count: int) -> None:
    ingest([folder], out, key=KEY, options=IngestOptions(site="n", workers=1),
           progress=lambda done, _: os._exit(9) if done == count else None)  # fmt: skip


def _die_inside(folder: Path, out: Path) -> None:
    from mmmed.ingest import plan

    real = plan.write_image

    def deadly(found: Found, *rest: object, **options: object) -> object:
        if "deadly" in found.origin:
            os._exit(11)
        return real(found, *rest, **options)  # type: ignore[arg-type]

    plan.write_image = deadly  # type: ignore[assignment]
    ingest([folder], out, key=KEY, options=IngestOptions(site="n", workers=2))


def _spawn(target: object, *args: object) -> int | None:
    process = multiprocessing.get_context("fork").Process(target=target, args=args)  # type: ignore[arg-type]
    process.start()
    process.join()
    return process.exitcode


def test_a_second_run_goes_on_where_the_first_was_killed(tmp_path: Path) -> None:
    for number in range(4):
        _study(tmp_path / "in", number, f"P{number}", f"N{number}")
    assert _spawn(_die_after, tmp_path / "in", tmp_path / "out", 2) == 9
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "images").iterdir()}
    assert len(written) >= 2 and not (tmp_path / "out" / "data.parquet").exists()
    done: list[int] = []
    ingest(
        [tmp_path / "in"], tmp_path / "out", key=KEY, options=OPTIONS, progress=lambda d, _: done.append(d)
    )
    assert done == [3, 4]
    assert all(path.stat().st_mtime_ns == before for path, before in list(written.items())[:2])
    done.clear()
    _, table = _run([tmp_path / "in"], tmp_path / "out")
    assert len(table) == 4 and done == []
    shutil.rmtree(tmp_path / "in" / "x", ignore_errors=True)
    (tmp_path / "in" / "N0-0.dcm").unlink()
    _, table = _run([tmp_path / "in"], tmp_path / "out")
    assert len(table) == 3 and {f"images/{p.name}" for p in (tmp_path / "out" / "images").iterdir()} == set(
        table.image
    )


def test_a_file_that_kills_its_reader_is_refused_in_the_end(tmp_path: Path) -> None:
    _study(tmp_path / "in", 1, "P1", "good")
    _study(tmp_path / "in", 2, "P2", "deadly")
    _study(tmp_path / "in", 3, "P3", "other")
    codes = [_spawn(_die_inside, tmp_path / "in", tmp_path / "out") for _ in range(3)]
    assert codes[0] == 11 and codes[-1] == 0
    table = pd.read_parquet(tmp_path / "out" / "data.parquet")
    assert set(table.patient_id) == {_pseudonym("P1"), _pseudonym("P3")}


def test_two_runs_into_one_data_set_are_refused(tmp_path: Path) -> None:
    _study(tmp_path / "in", 1, "P1", "x")
    other = []

    def second(done: int, total: int) -> None:
        with pytest.raises(DataError, match="another run"):
            ingest([tmp_path / "in"], tmp_path / "out", key=KEY, options=OPTIONS)
        other.append(done)

    ingest([tmp_path / "in"], tmp_path / "out", key=KEY, options=OPTIONS, progress=second)
    assert other == [1]


# ---------------------------------------------------------------- hostile sources


def _found(folder: Path, workspace: Path) -> tuple[list[Found], list[Skipped]]:
    files = list(find_files([folder], workspace))
    return [f for f in files if isinstance(f, Found)], [f for f in files if isinstance(f, Skipped)]


def test_archives_cannot_write_outside_and_bombs_are_refused(tmp_path: Path) -> None:
    source, workspace = tmp_path / "in", tmp_path / "work"
    source.mkdir()
    with zipfile.ZipFile(source / "a.zip", "w") as archive:
        archive.writestr("../../escape.txt", "x")
        archive.writestr("/tmp/absolute.txt", "y")
        archive.writestr("inner.zip", b"PK")
        archive.writestr("good/one.txt", "z")
    with zipfile.ZipFile(source / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.dcm", bytes(40 << 20))
    with zipfile.ZipFile(source / "lie.zip", "w") as archive:
        archive.writestr("x.txt", "0123456789" * 10)
    data = (source / "lie.zip").read_bytes()
    (source / "lie.zip").write_bytes(data.replace((100).to_bytes(4, "little"), (5).to_bytes(4, "little")))
    (source / "noise.zip").write_bytes(b"PK\x03\x04" + os.urandom(200))
    before = {p for p in tmp_path.rglob("*") if workspace not in p.parents}
    files, skipped = _found(source, workspace)
    assert sorted(f.path.read_text() for f in files if "a.zip" in f.origin) == ["x", "y", "z"]
    assert all(f.path.resolve().is_relative_to(workspace.resolve()) for f in files)
    assert {p for p in tmp_path.rglob("*") if workspace not in p.parents} - before <= {workspace}
    reasons = {s.origin.rpartition("/")[2]: s.reason for s in skipped}
    assert "1000 times" in reasons["bomb.zip"] and "archive in an archive" in reasons["inner.zip"]
    assert "not a readable zip" in reasons["noise.zip"] and any("lie.zip" in s.origin for s in skipped)


def test_limits_on_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_module, "MAX_MEMBERS", 3)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(4):
            archive.writestr(f"{number}.txt", "x")
    files, skipped = _found(tmp_path / "many.zip", tmp_path / "work")
    assert files == [] and "unpack it yourself" in skipped[0].reason
    monkeypatch.setattr(sources_module, "MAX_MEMBERS", 9)
    monkeypatch.setattr(sources_module, "MAX_MEMBER_BYTES", 0)
    files, skipped = _found(tmp_path / "many.zip", tmp_path / "work")
    assert files == [] and len(skipped) == 4 and "member larger" in skipped[0].reason


def test_links_and_special_files_are_skipped(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (tmp_path / "outside.txt").write_text("secret")
    (source / "link.txt").symlink_to(tmp_path / "outside.txt")
    (source / "loop").symlink_to(source)
    os.mkfifo(source / "pipe.txt")
    (source / "real.txt").write_text("x")
    files, skipped = _found(source, tmp_path / "work")
    assert [f.path.name for f in files] == ["real.txt"] and len(skipped) == 3
    with pytest.raises(DataError, match="no such file"):
        list(find_files([tmp_path / "absent"], tmp_path / "work"))


def test_dicomdir_reads_what_it_lists_and_nothing_outside(tmp_path: Path) -> None:
    folder = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"
    files, skipped = _found(folder / "DICOMDIR", tmp_path / "work")
    assert len(files) + len(skipped) == 31 and len(files) >= 30
    listing = pydicom.dcmread(folder / "DICOMDIR")
    for record in listing.DirectoryRecordSequence:
        if "ReferencedFileID" in record:
            record.ReferencedFileID = ["..", "..", "outside"]
    (tmp_path / "disc").mkdir()
    (tmp_path / "outside").write_text("x")
    listing.save_as(tmp_path / "disc" / "DICOMDIR")
    files, skipped = _found(tmp_path / "disc" / "DICOMDIR", tmp_path / "work")
    assert files == [] and all("outside its folder" in s.reason for s in skipped)


def test_every_file_of_the_test_folders_is_taken_or_has_a_reason(tmp_path: Path) -> None:
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    files, skipped = _found(folder, tmp_path / "work")
    result = scan([*files, *skipped], OPTIONS, KEY)
    taken = {one.found.origin for one in result.instances} | {r.origin for r in result.reports}
    reasons = {one.origin: one.reason for one in result.skipped}
    assert taken | set(reasons) == {str(p) for p in folder.rglob("*") if p.is_file()} and not taken & set(
        reasons
    )
    assert all(reasons.values())
    assert "segmentation" in reasons[str(folder / "liver_1frame.dcm")]
    assert "radiotherapy" in reasons[str(folder / "rtplan.dcm")]


# ---------------------------------------------------------------- reports


def _fhir(tmp_path: Path, content: str, suffix: str = ".json") -> list[Report | Named | Skipped]:
    path = tmp_path / f"x{suffix}"
    path.write_text(content)
    return list(fhir_resources(Found(path, "x")))


def test_fhir_documents_observations_and_bulk_export(tmp_path: Path) -> None:
    note = base64.b64encode("Müller: <clear>".encode()).decode()
    lines = [
        {"resourceType": "DocumentReference", "status": "current", "subject": {"reference": "Patient/7"},
         "content": [{"attachment": {"contentType": "text/plain; charset=utf-8", "data": note}}],
         "context": {"related": [{"identifier": {"value": "ACC9"}}]}},
        {"resourceType": "Observation", "status": "final", "code": {"text": "Smoking"}, "valueString": "never",
         "subject": {"identifier": {"value": "A1"}}},
        {"resourceType": "DiagnosticReport", "status": "final", "code": {"text": "x"},
         "subject": {"reference": "Patient/7"}, "text": {"status": "generated",
         "div": "<div xmlns='http://www.w3.org/1999/xhtml'><p>Lungs &amp; heart</p>ok</div>"},
         "imagingStudy": [{"identifier": {"value": "urn:oid:1.2.3"}}]},
        {"resourceType": "DiagnosticReport", "status": "final", "code": 5},
        {"resourceType": "Medication", "id": "m"},
    ]  # fmt: skip
    found = _fhir(tmp_path, "\n".join(map(json.dumps, lines)), ".ndjson")
    document, observation, report, invalid = found
    assert (
        isinstance(document, Report)
        and document.text == "Müller: <clear>"
        and document.references == ("Patient/7",)
    )
    assert document.studies == ("ACC9",)
    assert (
        isinstance(observation, Report)
        and observation.text == "Smoking: never"
        and observation.patients == ("A1",)
    )
    assert isinstance(report, Report) and report.studies == ("1.2.3",) and report.text == "Lungs & heart\nok"
    assert isinstance(invalid, Skipped) and "not a valid FHIR R4" in invalid.reason


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_fhir_and_tables_are_read_or_skipped(data: st.DataObject, tmp_path: Path) -> None:
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
            st.sampled_from(["resourceType", "entry", "resource", "subject", "identifier", "value", "reference",
                             "content", "attachment", "presentedForm", "data", "contentType", "text", "div", "id"]),
            inner | st.sampled_from(["Bundle", "Patient", "DiagnosticReport", "DocumentReference"]), max_size=4),
        max_leaves=12,
    )  # fmt: skip
    content = json.dumps(data.draw(values))
    cut = data.draw(st.integers(0, len(content)))
    for one in _fhir(tmp_path, content if data.draw(st.booleans()) else content[:cut], ".ndjson"):
        assert isinstance(one, Report | Named | Skipped)
    table = tmp_path / "t.csv"
    table.write_bytes(b"p,t\n" + data.draw(st.binary(max_size=60)))
    for row in table_rows(Found(table, "t"), TableOptions(patient="p", text="t")):
        assert isinstance(row, Report | Skipped)


def test_a_damaged_row_loses_itself_alone_and_a_long_cell_is_read_once(tmp_path: Path) -> None:
    lines = '""x""\n' * 50_000  # in one cell: a reader that begins it anew at each line would not come back
    table = tmp_path / "t.csv"
    table.write_text(f'p,t\nA,fine\nB,"a" b\nC,"{lines}end"\nD,fine\n')
    rows = list(table_rows(Found(table, "t"), TableOptions(patient="p", text="t")))
    assert [type(row) for row in rows] == [Report, Skipped, Report, Report]
    assert isinstance(rows[1], Skipped) and "double the quotation marks" in rows[1].reason
    assert isinstance(rows[2], Report) and rows[2].text == ('"x"\n' * 50_000 + "end")[:MAX_NOTE_CHARACTERS]


def test_deep_json_and_hostile_text_files_are_skipped(tmp_path: Path) -> None:
    [skipped] = _fhir(tmp_path, "[" * 100_000)
    assert isinstance(skipped, Skipped)
    (tmp_path / "nul.txt").write_bytes(b"a\0b")
    assert isinstance(text_file(Found(tmp_path / "nul.txt", "n")), Skipped)
    (tmp_path / "latin.txt").write_bytes("Prüfung".encode("cp1252"))
    latin = text_file(Found(tmp_path / "latin.txt", "n"))
    assert isinstance(latin, Report) and latin.text == "Prüfung"
    missing = list(table_rows(Found(tmp_path / "latin.txt", "n"), TableOptions(patient="p")))
    assert isinstance(missing[0], Skipped) and "without column p" in missing[0].reason
    assert plain("<p>a<br/>b</p>" + "<" * 50_000).startswith("a\nb")


REPORT = "CXR\nClinical history: cough\nFindings: Left effusion.\nNo pneumothorax.\nIMPRESSION:\nPneumonia.\n"


def test_sections_are_told_apart() -> None:
    assert select_sections(REPORT, ()) == REPORT
    assert select_sections(REPORT, ("findings",)) == "Left effusion.\nNo pneumothorax."
    assert select_sections(REPORT, ("history", "other")) == "CXR\ncough"
    assert "Pneumonia" not in select_sections(REPORT, ("history", "findings", "other", "technique"))
    assert select_sections("Befund: Erguss.\nBeurteilung: Pneumonie", ("impression",)) == "Pneumonie"
    assert select_sections("no headings", ("impression",)) == ""


@pytest.mark.parametrize(
    "text, stated",
    [
        ("There is a small effusion.", True),
        ("No effusion.", False),
        ("No evidence of pleural effusion or edema.", False),
        ("No pneumothorax, but a small effusion.", True),
        ("Effusion was ruled out.", False),
        ("No fever. Effusion on the left.", True),
        ("Kein Nachweis. Pleuraeffusion", True),
        ("ohne effusion", False),
        ("The heart is not enlarged; effusion present", True),
    ],
)
def test_labels_are_read_with_negation(text: str, stated: bool) -> None:

    assert finding_stated(text, regex.compile("effusion", regex.I)) is stated


def test_options_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValueError, match="regular expression"):
        IngestOptions(site="a", labels={"x": LabelOptions(text="(")})
    with pytest.raises(ValueError, match="extra"):
        IngestOptions(site="a", unknown=1)  # type: ignore[call-arg]


# ---------------------------------------------------------------- ground truth


def test_the_corpus_goes_in_or_has_a_reason(medical_data: Path, tmp_path: Path) -> None:
    source = medical_data / "dicom_mini"
    files, skipped = _found(source, tmp_path / "work")
    result = scan([*files, *skipped], OPTIONS, KEY)
    assert len(result.instances) + len(result.reports) + len(result.skipped) == sum(
        p.is_file() for p in source.rglob("*")
    )
    assert sum("synthetic_phi" in one.found.origin for one in result.instances) == 24
    with (source / "synthetic_phi.csv").open() as table:
        invented = [row["invented_id"] for row in csv.DictReader(table)]
    assert {one.patient for one in result.instances} >= set(invented)
    assert CR and all(
        one.facts["modality"] == "CR" for one in result.instances if "synthetic" in one.found.origin
    )
