"""Predictions as DICOM SR and FHIR, read back by others than who wrote them."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from fhir.resources.R4B.diagnosticreport import DiagnosticReport
from highdicom.sr import srread
from pydicom import Dataset
from torch import nn
from typer.testing import CliRunner

from mmmed import Model
from mmmed.cli import app
from mmmed.errors import DataError
from mmmed.inference.prediction import Doubt, Prediction
from mmmed.models import build_model, save_model
from mmmed.reporting.fhir import diagnostic_report
from mmmed.reporting.structured import structured_report
from mmmed.reporting.told import NO_DIAGNOSIS, Statement, Told
from mmmed.tasks import TASKS
from tests.contracts.steps import SMALL_TASK
from tests.mmmed.dicom.files import dicom
from tests.mmmed.models.test_models import configured

OWNER = {
    "PatientID": "P-17",
    "PatientName": "Doe^Jane",
    "IssuerOfPatientID": "north",
    "AccessionNumber": "A1",
}
NOTE = "No effusion."


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film_of(tmp_path_factory.mktemp("films") / "film.dcm", **OWNER)


def film_of(path: Path, **elements: Any) -> Path:
    pixels = np.random.default_rng(0).integers(0, 4095, (40, 30), dtype=np.uint16)
    dataset = dicom(pixels, bits=12)
    for name, value in elements.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def a_model(kind: str = "classification", **task: Any) -> Model:
    config = configured(task={"kind": kind, **SMALL_TASK.get(kind, {}), **task}, privacy={"enabled": False})
    network = build_model(config).eval()
    nn.init.normal_(network.head.weight)
    return Model(network, config)


@pytest.fixture(scope="module")
def model() -> Model:
    return a_model()


def items(dataset: Dataset) -> Iterator[Dataset]:
    """All content items below one, by no more than the standard's own sequence."""
    for item in dataset.get("ContentSequence", []):
        yield item
        yield from items(item)


def numbers(report: Dataset) -> dict[str, float]:
    return {
        item.ConceptNameCodeSequence[0].CodeMeaning: float(item.MeasuredValueSequence[0].NumericValue)
        for item in items(report)
        if item.ValueType == "NUM"
    }


def texts(report: Dataset) -> str:
    return "\n".join(item.TextValue for item in items(report) if item.ValueType == "TEXT")


def test_a_structured_report_is_of_the_images_study_and_says_what_it_is(model: Model, film: Path) -> None:
    found = model.predict(image=film, text=NOTE)
    written = model.structured_report(found, image=film, text=NOTE)
    report, source = pydicom.dcmread(io.BytesIO(written)), pydicom.dcmread(film)
    for name in (*OWNER, "StudyInstanceUID"):
        assert report.get(name) == source.get(name)
    assert report.SeriesInstanceUID != source.SeriesInstanceUID
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (report.VerificationFlag, report.CompletionFlag) == ("UNVERIFIED", "PARTIAL")
    (referred,) = [item.ReferencedSOPSequence[0] for item in items(report) if item.ValueType == "IMAGE"]
    assert referred.ReferencedSOPInstanceUID == source.SOPInstanceUID
    told = {name.removeprefix("probability of finding = "): value for name, value in numbers(report).items()}
    assert told == pytest.approx(found.values, abs=1e-6)
    assert NO_DIAGNOSIS in texts(report) and found.doubt.told in texts(report) and NOTE not in texts(report)
    (group,) = srread(io.BytesIO(written)).content.get_image_measurement_groups()
    assert [one.value for one in group.get_measurements()] == pytest.approx(
        list(found.values.values()), abs=1e-6
    )


@pytest.mark.skipif(shutil.which("dsrdump") is None, reason="dcmtk is not installed")
def test_dcmtk_takes_a_structured_report_for_what_it_is(model: Model, film: Path, tmp_path: Path) -> None:
    found = model.predict(image=film)
    (tmp_path / "sr.dcm").write_bytes(model.structured_report(found, image=film))
    told = subprocess.run(["dsrdump", "+Pl", tmp_path / "sr.dcm"], capture_output=True, text=True, check=True)
    assert "Comprehensive SR Document" in told.stdout and "E:" not in told.stderr
    assert 'NUM:(,,"probability of finding = 1")' in told.stdout and NO_DIAGNOSIS in told.stdout


def test_without_a_study_to_refer_to_there_is_no_structured_report(
    model: Model, film: Path, tmp_path: Path
) -> None:
    found = model.predict(text=NOTE)
    with pytest.raises(DataError, match=r"no DICOM file was read.*FHIR"):
        model.structured_report(found, text=NOTE)
    cut = film_of(tmp_path / "cut.dcm", StudyInstanceUID=None)
    with pytest.raises(DataError, match="no StudyInstanceUID"):
        model.structured_report(found, image=cut)
    bare = film_of(tmp_path / "bare.dcm", PatientID=None, PatientName=None)
    report = pydicom.dcmread(io.BytesIO(model.structured_report(found, image=bare)))
    assert (report.PatientID, str(report.PatientName)) == ("", "")


@pytest.mark.parametrize("kind", TASKS.sections)
def test_every_task_has_a_report_or_is_refused_in_words(kind: str, film: Path) -> None:
    model = a_model(kind)
    found, target = model.predict(image=film, text=NOTE), model.config.task.target()
    report = json.loads(model.diagnostic_report(found, image=film))
    DiagnosticReport.model_validate(report)
    device, *answers = report["contained"]
    assert [f"#{one['id']}" for one in answers] == [one["reference"] for one in report["result"]]
    assert all(one["device"] == {"reference": "#model"} for one in answers) and device["id"] == "model"
    assert NO_DIAGNOSIS in report["conclusion"] and report["status"] == "preliminary"
    if isinstance(next(iter(found.values.values())), str):
        text = next(iter(found.values.values()))
        assert answers[0].get("valueString") == (text or None)
        with pytest.raises(DataError, match="writes a text"):
            model.structured_report(found, image=film)
        return
    given = [one["valueQuantity"]["value"] for one in answers]
    assert given == pytest.approx(list(found.values.values()), abs=1e-6)
    plain_numbers = {"regression": [0], "several": [2]}.get(kind, [])
    for number, one in enumerate(answers):
        assert one["code"]["text"] == target.about(number)
        assert (
            ("unit" in one["valueQuantity"]) == target.is_probability(number) == (number not in plain_numbers)
        )
    told = pydicom.dcmread(io.BytesIO(model.structured_report(found, image=film)))
    assert list(numbers(told).values()) == pytest.approx(given, abs=1e-6)


def test_a_fhir_report_names_no_more_of_the_patient_than_an_identifier(model: Model, film: Path) -> None:
    found = model.predict(image=film, text=NOTE)
    text = model.diagnostic_report(found, image=film, text=NOTE)
    report = json.loads(text)
    identifier = {"value": "P-17", "assigner": {"display": "north"}}
    assert report["subject"] == {"type": "Patient", "identifier": identifier}
    study = pydicom.dcmread(film).StudyInstanceUID
    assert report["imagingStudy"][0]["identifier"]["value"] == f"urn:oid:{study}"
    assert "Doe" not in text and NOTE not in text
    nobody = json.loads(model.diagnostic_report(found, text=NOTE))
    assert "subject" not in nobody and "imagingStudy" not in nobody


def test_what_is_calibrated_is_told_so_and_odd_words_do_not_break_a_report(film: Path) -> None:
    model = a_model(classes=["A\\B^C=\n", "ü" * 90])
    doubt = Doubt({"A\\B^C=\n": 0.25, "ü" * 90: 0.75}, {"ü" * 90: (0.5, 0.9)}, ("a",), 0.9, "Calibrated.")
    found = Prediction({"A\\B^C=\n": 0.4, "ü" * 90: 0.6}, ("image",), ("text",), doubt=doubt)
    report = pydicom.dcmread(io.BytesIO(model.structured_report(found, image=film)))
    assert list(numbers(report).values()) == [0.25, 0.75]
    assert "A/B^C=" in next(iter(numbers(report))) and "ü" * 90 in texts(report)
    assert "95 % interval of the correction: 50 % to 90 %" in texts(report).replace("%", " %").replace(
        "  ", " "
    )
    answers = json.loads(model.diagnostic_report(found))["contained"][1:]
    assert [one["valueQuantity"]["value"] for one in answers] == [0.25, 0.75]
    assert "95 % interval" in answers[1]["note"][0]["text"]
    with pytest.raises(DataError, match="no finite number"):
        model.diagnostic_report(found._replace(values={"a": float("nan"), "b": 1.0}, doubt=Doubt()))


def test_an_empty_text_and_no_name_are_still_valid() -> None:
    told = Told("", "1", (Statement("", "", False),), (NO_DIAGNOSIS, ""), None)
    answer = json.loads(diagnostic_report(told))["contained"][1]
    assert "valueString" not in answer and answer["dataAbsentReason"]
    with pytest.raises(DataError, match="no DICOM file"):
        structured_report(replace(told, statements=(Statement("a", 1.0, True),)))


def test_the_command_writes_a_report_of_one_study_and_of_each(
    model: Model, film: Path, tmp_path: Path
) -> None:
    save_model(tmp_path / "model", model.network, model.config)
    shutil.copy(film, tmp_path / "film.dcm")
    cut = film_of(tmp_path / "cut.dcm", SeriesInstanceUID=None)
    rows = [("a/../1", "film.dcm", NOTE), ("b", "", NOTE), ("c", cut.name, "")]
    table = pd.DataFrame(rows, columns=["patient_id", "image", "text"]).assign(site="north")
    table.assign(study_id=table["patient_id"]).to_csv(tmp_path / "data.csv", index=False)

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(
            app, ["predict", str(tmp_path / "model"), *arguments], catch_exceptions=False
        )

    one = [f"image={film}", "--sr", str(tmp_path / "one.dcm"), "--fhir", str(tmp_path / "one.json")]
    assert run(*one).exit_code == 0
    assert pydicom.dcmread(tmp_path / "one.dcm").PatientID == "P-17"
    with pytest.raises(DataError, match="no DICOM file"):
        run("text=a", "--sr", str(tmp_path / "two.dcm"), "--fhir", str(tmp_path / "two.json"))
    assert not list(tmp_path.glob("two*"))
    each = ["--data", str(tmp_path), "--out", str(tmp_path / "p.csv"), "--sr", str(tmp_path / "sr")]
    told = run(*each, "--fhir", str(tmp_path / "fhir"))
    assert (
        "3 FHIR reports" in told.stdout
        and "1 DICOM SR" in told.stdout
        and "2 studies have none" in told.stdout
    )
    assert "row 3: the DICOM image has no SeriesInstanceUID" in told.stderr
    assert sorted(path.name for path in (tmp_path / "fhir").iterdir()) == [
        f"row-00000{n}.json" for n in (1, 2, 3)
    ]
    assert [path.name for path in (tmp_path / "sr").iterdir()] == ["row-000001.dcm"]
    reports = [json.loads(path.read_text()) for path in sorted((tmp_path / "fhir").iterdir())]
    assert [one["subject"]["identifier"]["value"] for one in reports] == ["P-17", "b", "P1"]
    expected = pd.read_csv(tmp_path / "p.csv")[["0", "1"]].to_numpy()
    given = [[one["valueQuantity"]["value"] for one in report["contained"][1:]] for report in reports]
    np.testing.assert_allclose(given, expected, atol=1e-6)
    with pytest.raises(DataError, match="is there already"):
        run(*each)
