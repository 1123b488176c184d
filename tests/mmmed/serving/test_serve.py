"""The real server, as a process of its own on loopback, asked over HTTP."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from PIL import Image
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from typer.testing import CliRunner

import mmmed
from mmmed.cli import app
from mmmed.errors import ConfigError
from mmmed.serving.guard import Bounds
from mmmed.serving.run import check, read_token, temporary_folder
from mmmed.serving.together import Together

TOKEN = "a-token-of-the-tests-0123456789"
NOTE = "Consolidation on the left. Fever."
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
FEW = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
PATHS = re.compile(r"/(tmp|root|home|usr|work)\b|Traceback|\.py\b")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def film(folder: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 30), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "film.png")
    return folder / "film.png"


@pytest.fixture(scope="module")
def process(kept_run: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    token = folder / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    for name in ("tmp", "home"):
        (folder / name).mkdir()
    environment = os.environ | {"TMPDIR": str(folder / "tmp"), "MMMED_HOME": str(folder / "home")}
    options = ["--port", "0", "--token-file", str(token), "--max-request-mb", "0.2", "--max-studies", "8"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mmmed.cli", "serve", str(kept_run), *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("serving: http://127.0.0.1:"), process.stderr and process.stderr.read()
    return line.split()[1].rstrip("/")


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=120) as found:
        yield found


@pytest.fixture(scope="module")
def model(kept_run: Path) -> mmmed.Model:
    return mmmed.load_model(kept_run)


def told(answer: httpx.Response, status: int) -> str:
    """The one sentence of an answer that is none, which names nothing of the server's."""
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"detail"}
    sentence: str = answer.json()["detail"]
    assert "\n" not in sentence and not PATHS.search(sentence), sentence
    return sentence


def test_an_answer_is_what_the_model_says_of_the_study(
    client: httpx.Client, model: mmmed.Model, film: Path
) -> None:
    answer = client.post("/predict", data={"text": NOTE}, files={"image": ("a.png", film.read_bytes())})
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    found, expected = answer.json(), model.predict(image=film, text=NOTE)
    assert found["values"] == pytest.approx(expected.values, abs=1e-6)
    assert found["model"] == "run" and found["read"] == ["image", "text"] and found["missing"] == []
    assert set(found) == {"model", *expected._fields} and found["doubt"]["told"] == expected.doubt.told
    alone = client.post("/predict", files={"text": ("note.txt", NOTE.encode())})
    assert alone.json()["values"] == pytest.approx(model.predict(text=NOTE).values, abs=1e-6)
    assert alone.json()["missing"] == ["image"]
    explained, shares = client.post("/explain", files={"text": (None, NOTE)}), model.explain(text=NOTE)
    assert explained.json()["shares"]["text"] == pytest.approx(shares.shares["text"], abs=1e-6)
    told_of, words = explained.json()["details"]["text"], shares.details["text"]
    assert told_of["names"] == list(words.names)
    assert list(told_of["shares"].values()) == [pytest.approx(one, abs=1e-5) for one in words.shares.tolist()]


def test_requests_at_one_time_are_answered_each_with_its_own(
    client: httpx.Client, model: mmmed.Model
) -> None:
    notes = [" ".join(["No effusion.", "Fever."][i % 2] for _ in range(i + 1)) for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(lambda note: client.post("/predict", data={}, files={"text": (None, note)}), notes)
        )
    for note, answer in zip(notes, answers, strict=True):
        assert answer.json()["values"] == pytest.approx(model.predict(text=note).values, abs=1e-6)


def test_who_does_not_bear_the_token_is_told_so(client: httpx.Client, url: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
        for method, path in (
            ("POST", "/predict"),
            ("GET", "/metrics"),
            ("GET", "/openapi.json"),
            ("GET", "/x"),
        ):
            answer = httpx.request(method, url + path, headers=headers, timeout=60)
            assert "token" in told(answer, 401) and answer.headers["www-authenticate"] == "Bearer"
    assert httpx.get(f"{url}/health", timeout=60).json() == {"status": "ok"}


def test_what_cannot_be_answered_is_told_in_a_sentence(
    client: httpx.Client, film: Path, folder: Path
) -> None:
    assert "It reads: image, text" in told(client.post("/predict", files={"age": (None, "60")}), 422)
    damaged = film.read_bytes()[:100]
    for name in ("film.png", "film.dcm", "../../etc/passwd", "a\\..\\b.png", ".." * 300, "", "x.png\x00"):
        answer = client.post("/predict", files={"image": (name or "f", damaged)})
        assert "image" in told(answer, 422)
    assert "expected a file" in told(client.post("/predict", files={"image": (None, "/etc/passwd")}), 422)
    assert "expected a file" in told(client.post("/predict", files={"image": (None, str(film))}), 422)
    twice = [("text", (None, "a")), ("text", (None, "b"))]
    assert "twice" in told(client.post("/predict", files=twice), 422)
    assert "nothing that the model reads" in told(client.post("/predict", files={"text": (None, " ")}), 422)
    assert "UTF-8" in told(client.post("/predict", files={"text": ("n.txt", b"\xff\xfe\xff")}), 422)
    assert "multipart/form-data" in told(client.post("/predict", json={"text": "x"}), 415)
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    told(client.post("/predict", content=b"--y\r\n", headers=headers), 400)
    told(client.post("/predict", content=b"", headers={"Content-Type": "multipart/form-data"}), 400)
    part = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\na'
    cut = part % b"text" + b"\r\n" + part % b"image"
    assert "closing boundary" in told(client.post("/predict", content=cut, headers=headers), 400)
    told(client.get("/predict"), 405)
    told(client.get("/nothing"), 404)


def test_no_more_is_read_than_the_bound_whatever_the_header_says(client: httpx.Client) -> None:
    large = b"x" * 400_000
    assert "200,000 bytes" in told(client.post("/predict", files={"image": ("a.png", large)}), 413)

    def chunks() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        yield from [large[:50_000]] * 8

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = client.post("/predict", content=chunks(), headers=headers)
    assert answer.request.headers["transfer-encoding"] == "chunked"
    assert "200,000 bytes" in told(answer, 413)


def test_metrics_count_requests_and_missing_modalities_and_nothing_else(client: httpx.Client) -> None:
    client.post("/predict", files={"text": (None, "A rare and telling note")})
    client.post("/predict", files={"a-name-of-somebody": (None, "x")})
    client.get("/a-path-of-somebody")
    shown = client.get("/metrics").text
    assert re.search(r'mmmed_requests_total\{path="/predict",status="200"\} [1-9]', shown)
    assert re.search(r'mmmed_requests_total\{path="other",status="404"\} [1-9]', shown)
    assert re.search(r'mmmed_missing_total\{modality="image"\} [1-9]', shown)
    assert 'mmmed_request_seconds_bucket{le="0.5",path="/predict"}' in shown
    assert "somebody" not in shown and "telling" not in shown


def test_the_description_holds_for_whatever_is_asked(url: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=headers)
    seen = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        seen.add(operation.path)

        @FEW
        @given(case=operation.as_strategy())
        def holds(case: schemathesis.Case) -> None:
            case.call_and_validate(headers=headers, checks=CHECKS)

        holds()
    assert seen == {"/predict", "/explain", "/health", "/metrics"}


def test_nothing_is_kept_and_it_stops_when_told(
    process: subprocess.Popen[str], client: httpx.Client, folder: Path
) -> None:
    assert client.get("/health").status_code == 200
    assert not [path for name in ("tmp", "home") for path in (folder / name).rglob("*") if path.is_file()]
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, "", "")


# ---------------------------------------------------------------- without a server


def test_files_lie_in_memory_if_it_holds_them_and_nobody_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small, large = Bounds(1_000, 1, 1), Bounds(1 << 50, 1, 16)
    monkeypatch.setattr("mmmed.serving.run._MEMORY", tmp_path)
    monkeypatch.delenv("TMPDIR", raising=False)
    assert temporary_folder(small) == str(tmp_path)
    assert temporary_folder(large) == tempfile.gettempdir() != str(tmp_path)
    monkeypatch.setattr("mmmed.serving.run._MEMORY", tmp_path / "none")
    assert temporary_folder(small) == tempfile.gettempdir()
    monkeypatch.setattr("mmmed.serving.run._MEMORY", tmp_path)
    monkeypatch.setenv("TMPDIR", tempfile.gettempdir())
    assert temporary_folder(small) == tempfile.gettempdir()


def test_copies_in_a_batch_are_not_computed_and_an_error_reaches_who_asked(model: mmmed.Model) -> None:
    rows = []

    class Watched(type(model.network)):  # type: ignore[misc]
        def forward(self, batch: Any) -> Any:
            rows.append(len(batch))
            return super().forward(batch)

    watched = object.__new__(Watched)
    watched.__dict__ = model.network.__dict__
    together = Together(watched)
    asked = replace(model, network=together)
    assert asked.predict(text=NOTE).values == pytest.approx(model.predict(text=NOTE).values, abs=1e-6)
    assert rows == [1]
    head, model.network.head.weight.data = (
        model.network.head.weight.data,
        model.network.head.weight.data[:, :1],
    )
    with pytest.raises(RuntimeError):
        asked.predict(text=NOTE)
    model.network.head.weight.data = head
    assert asked.predict(text=NOTE).values == pytest.approx(model.predict(text=NOTE).values, abs=1e-6)
    together.close()


def test_a_server_that_others_could_use_or_read_along_is_not_started(tmp_path: Path, kept_run: Path) -> None:
    with pytest.raises(ConfigError, match="read along"):
        CliRunner().invoke(app, ["serve", str(kept_run), "--host", "0.0.0.0"], catch_exceptions=False)
    certificate = tmp_path / "c.pem"
    certificate.touch()
    with pytest.raises(ConfigError, match="Give --token-file"):
        check("0.0.0.0", None, certificate, certificate)
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_token(token)
    token.chmod(0o600)
    assert read_token(token) == TOKEN
    for wrong in ("short", "two words of a token", "ümlaut-of-some-length"):
        token.write_text(wrong)
        with pytest.raises(ConfigError, match="token"):
            read_token(token)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path / "none")
