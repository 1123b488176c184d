"""Images by STOW-RS, to a real server on loopback; its answers are read by Python's own parser of mail."""

from __future__ import annotations

import email.policy
import io
import tempfile
import threading
import time
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient
from pydicom import Dataset, dcmread

from mmmed import Model
from mmmed.serving.app import create_app
from mmmed.serving.guard import Bounds, Counts
from tests.mmmed.serving.test_entrance import film, model, served

__all__ = ["model"]  # the fixture

RELATED = 'multipart/related; type="application/dicom"; boundary="b/1"'
TOKEN = {"Authorization": "Bearer secret"}


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def url(model: Model, temporary: Path) -> Iterator[str]:
    app = create_app(served(model, stow=True), Bounds(400_000, 20, 2), "secret", ["127.0.0.1"], Counts())
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/studies"
    server.should_exit = True
    thread.join()


def written(image: Dataset) -> bytes:
    file = io.BytesIO()
    image.save_as(file, enforce_file_format=True)
    return file.getvalue()


def request(*files: bytes, end: bytes = b"--b/1--\r\n") -> bytes:
    head = b"--b/1\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(head + one + b"\r\n" for one in files) + end


def send(url: str, body: bytes, kind: str = RELATED, **headers: str) -> httpx.Response:
    return httpx.post(url, content=body, headers={**TOKEN, "Content-Type": kind, **headers}, timeout=60)


def test_each_image_is_answered_by_its_report_and_nothing_is_kept(url: str, temporary: Path) -> None:
    images = [film(PatientID="P-1"), film(PatientID="P-2", InstanceNumber=13)]
    answer = send(url, request(*map(written, images)))
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    parts = message_from_bytes(head + answer.content, policy=email.policy.HTTP).get_payload()
    assert isinstance(parts, list) and [one.get_content_type() for one in parts] == ["application/dicom"] * 2
    boundary = answer.headers["content-type"].rpartition("boundary=")[2].encode()
    bodies = [one.partition(b"\r\n\r\n")[2][:-2] for one in answer.content.split(b"--" + boundary)[1:-1]]
    reports = [dcmread(io.BytesIO(one)) for one in bodies]
    for report, image in zip(reports, images, strict=True):
        assert (report.PatientID, report.StudyInstanceUID) == (image.PatientID, image.StudyInstanceUID)
        assert report.Modality == "SR"
    assert not list(temporary.iterdir())


def test_the_reports_can_be_had_in_json(url: str) -> None:
    answer = send(url, request(written(film(PatientID="P-1"))), Accept="application/dicom+json")
    assert answer.headers["content-type"] == "application/dicom+json"
    (told,) = answer.json()
    assert Dataset.from_json(told).PatientID == "P-1" and Dataset.from_json(told).Modality == "SR"
    assert send(url, request(written(film())), Accept="text/html").status_code == 406


def test_what_is_no_request_of_images_is_refused_in_a_sentence(url: str, temporary: Path) -> None:
    image = written(film(PatientID="P-17"))
    homeless = film()
    del homeless.StudyInstanceUID
    for status, body, kind, words in (
        (415, request(image), RELATED.replace("dicom", "json"), "expected multipart/related"),
        (415, request(image), "multipart/form-data; boundary=b", "expected multipart/related"),
        (415, request(image), 'multipart/related; type="application/dicom"', "boundary"),
        (400, request(image, end=b""), RELATED, "ends before"),
        (400, b"nothing of the kind", RELATED, "cannot be read"),
        (400, request(), RELATED, ""),
        (400, request(*[b"x"] * 17), RELATED, "more than 16"),
        (413, request(image * 200), RELATED, "bytes"),
        (422, request(image, b"no DICOM"), RELATED, ""),
        (422, request(written(homeless)), RELATED, "StudyInstanceUID|study"),
    ):  # fmt: skip
        answer = send(url, body, kind)
        assert answer.status_code == status, (status, answer.text)
        told = answer.json()["detail"]
        assert words.split("|")[-1].lower() in told.lower() and "P-17" not in told and "/tmp" not in told
    assert httpx.post(url, content=request(image), headers={"Content-Type": RELATED}).status_code == 401
    assert not list(temporary.iterdir())


def test_it_is_there_only_where_it_was_asked_for(model: Model) -> None:
    bounds = Bounds(400_000, 20, 2)
    for asked in (False, True):
        app = create_app(served(model, stow=asked), bounds, None, ["testserver"], Counts())
        assert ("/studies" in app.openapi()["paths"]) is asked
        assert (TestClient(app).post("/studies").status_code == 404) is not asked
