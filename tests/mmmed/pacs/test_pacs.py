"""A PACS as a source: a real Orthanc on loopback, and servers that misbehave."""

from __future__ import annotations

import datetime
import ipaddress
import json
import logging
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pydicom import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless, generate_uid
from pynetdicom import AE, evt
from typer.testing import CliRunner

from mmmed.cli.site import app
from mmmed.deidentify import SiteKey
from mmmed.errors import ConfigError, DataError
from mmmed.ingest import IngestOptions, ingest
from mmmed.pacs import Access, FetchReport, Query, archive, fetch, open_archive
from mmmed.pacs import inbox as inbox_module
from mmmed.pacs.dimse import FIND, GET
from mmmed.pacs.inbox import Inbox
from mmmed.quiet import quieten
from tests.mmmed.dicom.files import CR, CT, dicom, save
from tests.mmmed.pacs.orthanc import TITLE, Orthanc, free_port

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
NEW_YEAR = datetime.date(2024, 1, 1)
EVERYTHING = Query(NEW_YEAR, NEW_YEAR + datetime.timedelta(9))
WAYS = ["get", "move", "web"]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "RETRY_SECONDS", 0.01)


def _object(number: int, study: str, series: str, day: int, **elements: object) -> Dataset:
    pixels = np.random.default_rng(number).integers(0, 900, (64, 64)).astype(np.int16)
    kind = str(elements.pop("kind", CT))
    ds = dicom(pixels, sop_class=kind, PatientID=f"MHH{day}", PatientName=f"Muster^Erika{day}", **elements)
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.StudyDate = study, series, f"202401{day:02}"
    return ds


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six studies on six days: CT of the thorax (two with a CR beside), CT of the head, one RLE, one JPEG 2000."""
    folder, files = tmp_path_factory.mktemp("films"), []
    for day in range(1, 7):
        study, series = generate_uid(), generate_uid()
        text = "CT Schädel" if day == 3 else "CT THORAX nativ"
        slices = [_object(10 * day + k, study, series, day, StudyDescription=text) for k in range(4)]
        for one in slices:
            one.SpecificCharacterSet = "ISO_IR 192"
            if day == 4:
                one.compress(RLELossless, encoding_plugin="pydicom")
            if day == 5:
                one.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg")
        if day in (1, 2):
            slices.append(_object(10 * day + 9, study, generate_uid(), day, StudyDescription=text, kind=CR))
        files += [save(one, folder / f"{day}-{k}.dcm") for k, one in enumerate(slices)]
    return files


@pytest.fixture(scope="module")
def orthanc(films: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    server = Orthanc(tmp_path_factory.mktemp("orthanc")).start()
    server.fill(films)
    yield server
    server.stop()


def _access(server: Orthanc, way: str) -> tuple[str, Access]:
    if way == "web":
        return server.web, Access()
    return server.dicom, Access(move_to=f"127.0.0.1:{server.move_port}" if way == "move" else "")


def _fetch(
    address: str, access: Access, query: Query, out: Path, progress: Callable[[int, int], None] | None = None
) -> FetchReport:
    with closing(open_archive(address, access)) as pacs:
        return fetch(pacs, query, out, progress=progress)


def _content(files: list[Path]) -> dict[str, bytes]:
    """Object UID -> pixel data as stored, checking that each file is whole."""
    read = [pydicom.dcmread(file) for file in files]
    return {str(ds.SOPInstanceUID): ds.PixelData for ds in read}


def _received(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.dcm"))


# ---------------------------------------------------------------- the whole way


@pytest.mark.parametrize("way", WAYS)
def test_what_matches_comes_as_it_is_stored_and_once(
    orthanc: Orthanc, films: list[Path], way: str, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    quieten()  # as the command does
    caplog.set_level(logging.DEBUG)
    address, access = _access(orthanc, way)
    last = NEW_YEAR + datetime.timedelta(4)
    query = Query(NEW_YEAR, last, ("CT",), "*thorax*")
    report = _fetch(address, access, query, tmp_path / "in")
    wanted = [f for f in films if f.name[0] in "1245" and pydicom.dcmread(f).Modality == "CT"]
    assert (report.named, report.studies, report.received, report.present) == (5, 4, 16, 0)
    assert report.incomplete == [] and not (tmp_path / "in" / "incomplete.log").exists()
    assert _content(_received(tmp_path / "in")) == _content(wanted)
    assert {oct(p.stat().st_mode & 0o777) for p in _received(tmp_path / "in")} == {"0o600"}
    assert {oct(p.parent.stat().st_mode & 0o777) for p in _received(tmp_path / "in")} == {"0o700"}
    # again, with one gone: that one alone comes
    before = {path: path.stat().st_mtime_ns for path in _received(tmp_path / "in")}
    gone = next(iter(before))
    gone.unlink()
    again = _fetch(address, access, query, tmp_path / "in")
    assert (again.received, again.present) == (1, 15)
    assert [p for p in before if p != gone and p.stat().st_mtime_ns != before[p]] == []
    output = capfd.readouterr()
    for text in (output.out, output.err, caplog.text, report.summary()):
        for identifier in ("MHH", "Muster", gone.stem, gone.parent.name):
            assert identifier not in text


def test_a_fetched_folder_is_ingested(orthanc: Orthanc, tmp_path: Path) -> None:
    one = Query(NEW_YEAR, NEW_YEAR)
    _fetch(orthanc.dicom, Access(), one, tmp_path / "in")
    done = ingest(
        [tmp_path / "in"], tmp_path / "out", key=SiteKey(bytes(32)), options=IngestOptions(site="n")
    )
    assert (done.studies, done.images) == (1, 1)
    reasons = Counter(one.reason.partition(",")[0] for one in done.skipped)
    assert reasons.pop("slice without position") == 4 and set(reasons) == {"hidden file"}


def _command(address: str, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "mmmed.cli", "site", "fetch", address, "--out", str(out),
            "--from", "2024-01-01", "--to", "2024-01-09", *more]  # fmt: skip


@pytest.mark.parametrize("way", ["get", "web"])
def test_a_killed_fetch_goes_on_and_nothing_partial_looks_complete(
    orthanc: Orthanc, films: list[Path], way: str, tmp_path: Path
) -> None:
    address, _ = _access(orthanc, way)
    process = subprocess.Popen(_command(address, tmp_path / "in"), stdout=subprocess.DEVNULL)
    while len(_received(tmp_path / "in")) < 7 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    whole = _content(films)
    first = _content(_received(tmp_path / "in"))
    assert 7 <= len(first) < len(films) and first.items() <= whole.items()
    (_received(tmp_path / "in")[0].parent / ".1.2.3.part").write_bytes(b"cut")
    times = {path: path.stat().st_mtime_ns for path in _received(tmp_path / "in")}
    done = subprocess.run(_command(address, tmp_path / "in"), capture_output=True, text=True, check=True)
    assert f"{len(films) - len(first)} objects received, {len(first)} were there" in " ".join(
        done.stdout.split()
    )
    assert _content(_received(tmp_path / "in")) == whole
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())
    assert list((tmp_path / "in").glob("*/.*")) == []


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_stops_in_the_middle_is_told_and_gone_on_with(
    films: list[Path], way: str, tmp_path: Path
) -> None:
    server = Orthanc(tmp_path / "orthanc").start()
    try:
        server.fill(films[:14])
        address, access = _access(server, way)

        def stop(done: int, total: int) -> None:
            assert total == 3
            if done == 1:
                server.stop()

        with pytest.raises(DataError, match="no connection") as caught:
            _fetch(address, access, EVERYTHING, tmp_path / "in", stop)
        assert "3 of 3 studies match; 5 objects received" in str(caught.value)
        assert len(_received(tmp_path / "in")) == 5
        server.start()
        report = _fetch(address, access, EVERYTHING, tmp_path / "in")
        assert (report.present, report.received) == (5, 9) and report.incomplete == []
    finally:
        server.stop()


@pytest.mark.parametrize("way", WAYS)
def test_a_study_that_fails_does_not_stop_the_rest(films: list[Path], way: str, tmp_path: Path) -> None:
    server = Orthanc(tmp_path / "orthanc").start()
    try:
        server.fill(films[:14])
        lost = pydicom.dcmread(films[5]).StudyInstanceUID
        storage = [p for p in (tmp_path / "orthanc" / "storage").glob("*/*/*") if p.is_file()]
        for path in storage:  # the archive lists its objects, but has lost their files
            if str(lost).encode() in path.read_bytes():
                path.unlink()
        server.stop()  # it would send them from its memory
        server.start()
        address, access = _access(server, way)
        report = _fetch(address, access, EVERYTHING, tmp_path / "in")
        assert report.received == 9
        failed = "2024-01-02" if way == "web" else str(lost)  # Orthanc's QIDO reads the files: its day fails
        assert {what for what, _ in report.incomplete} == {failed}
        assert "the PACS" in report.summary() and str(lost) not in report.summary()
        assert failed in (tmp_path / "in" / "incomplete.log").read_text()
    finally:
        server.stop()


def test_wrong_titles_and_services_that_are_not_offered_are_told(orthanc: Orthanc, tmp_path: Path) -> None:
    port = orthanc.dicom_port
    with pytest.raises(DataError, match=r"rejected.*[Cc]alled AE title.*check its AE title 'WRONG'"):
        _fetch(f"dicom://WRONG@127.0.0.1:{port}", Access(), EVERYTHING, tmp_path / "a")
    with pytest.raises(DataError, match="NOBODY"):
        _fetch(orthanc.dicom, Access(own_title="NOBODY"), EVERYTHING, tmp_path / "b")
    with pytest.raises(DataError, match="no connection"):
        _fetch(f"dicom://{TITLE}@127.0.0.1:{free_port()}", Access(), EVERYTHING, tmp_path / "c")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(DataError, match="cannot be listened on"):
            open_archive(orthanc.dicom, Access(move_to=f"127.0.0.1:{taken.getsockname()[1]}"))
    # we listen where the archive does not send to: every study fails, and says so
    report = _fetch(orthanc.dicom, Access(move_to=f"127.0.0.1:{free_port()}"), EVERYTHING, tmp_path / "e")
    assert len({study for study, _ in report.incomplete}) == report.studies == 6 and report.received == 0
    with pytest.raises(DataError, match=r"HTTP 404|no DICOM"):
        _fetch(orthanc.web.replace("dicom-web", "nothing"), Access(), EVERYTHING, tmp_path / "f")


def test_tls_and_credentials(films: list[Path], tmp_path: Path) -> None:
    ours, theirs = _certificate(tmp_path, "us"), _certificate(tmp_path, "archive")
    server = Orthanc(
        tmp_path / "orthanc", DicomTlsEnabled=True, DicomTlsCertificate=str(theirs.with_suffix(".crt")),
        DicomTlsPrivateKey=str(theirs.with_suffix(".key")), DicomTlsTrustedCertificates=str(ours.with_suffix(".crt")),
        RegisteredUsers={"site": "se:cret"},
    )  # fmt: skip
    trusted, password = theirs.with_suffix(".crt"), tmp_path / "password"
    password.write_text("site:se:cret\n")
    password.chmod(0o600)
    try:
        server.start().fill(films[:5])
        server.stop()
        server.require_password()
        server.send_over_tls()
        server.start()
        dicoms = server.dicom.replace("dicom:", "dicoms:")
        assert _fetch(dicoms, Access(ca=trusted, cert=ours), EVERYTHING, tmp_path / "a").received == 5
        move = Access(ca=trusted, cert=ours, move_to=f"127.0.0.1:{server.move_port}")
        assert _fetch(dicoms, move, EVERYTHING, tmp_path / "moved").received == 5
        assert _content(_received(tmp_path / "moved")) == _content(_received(tmp_path / "a"))
        with _tls_proxy(server.web, theirs) as web:
            assert (
                _fetch(web, Access(ca=trusted, credentials=password), EVERYTHING, tmp_path / "b").received
                == 5
            )
            with pytest.raises(DataError, match=r"--ca"):
                _fetch(web, Access(credentials=password), EVERYTHING, tmp_path / "c")
            with pytest.raises(DataError, match="--credentials"):
                _fetch(web, Access(ca=trusted), EVERYTHING, tmp_path / "d")
        with pytest.raises(DataError, match="--ca and --cert"):
            _fetch(dicoms, Access(ca=ours.with_suffix(".crt"), cert=ours), EVERYTHING, tmp_path / "e")
        with pytest.raises(DataError, match="--ca and --cert"):
            _fetch(dicoms, Access(ca=trusted), EVERYTHING, tmp_path / "f")
        with pytest.raises(DataError, match="dicoms://"):
            _fetch(server.dicom, Access(timeout=5), EVERYTHING, tmp_path / "g")
        server.stop()
        server.send_over_tls(False)
        server.start()
        untrusted = _fetch(
            dicoms, move, EVERYTHING, tmp_path / "h"
        )  # sends in clear, so we do not listen to it
        assert untrusted.received == 0 and untrusted.incomplete and not _received(tmp_path / "h")
    finally:
        server.stop()


@contextmanager
def _tls_proxy(url: str, certificate: Path) -> Iterator[str]:
    """TLS before a service, as hospitals do it (Debian's Orthanc resets its own TLS connections)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {name: value for name, value in self.headers.items() if name != "Accept-Encoding"}
            request = urllib.request.Request(url.removesuffix("/dicom-web") + self.path, headers=headers)
            try:
                with urllib.request.urlopen(request) as answer:
                    status, kind, body = answer.status, answer.headers["Content-Type"], answer.read()
            except urllib.error.HTTPError as error:
                status, kind, body = error.code, "text/plain", b""
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that do not trust us
    with _serving(server):
        yield f"https://127.0.0.1:{server.server_port}/dicom-web"


@contextmanager
def _serving(server: ThreadingHTTPServer) -> Iterator[None]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _certificate(folder: Path, name: str) -> Path:
    """``name``.pem with certificate and key for 127.0.0.1, and each alone in .crt and .key."""
    key = rsa.generate_private_key(65537, 2048)
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(who).issuer_name(who).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(1))
        .not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / f"{name}.crt").write_bytes(pem)
    (folder / f"{name}.key").write_bytes(secret)
    (folder / f"{name}.pem").write_bytes(pem + secret)
    return folder / f"{name}.pem"


def test_the_command_prints_counts_and_fails_when_something_is_missing(
    orthanc: Orthanc, tmp_path: Path
) -> None:
    run = CliRunner().invoke
    good = run(
        app,
        ["fetch", orthanc.dicom, "--out", str(tmp_path / "in"), "--from", "2024-01-03", "--to", "2024-01-03"],
    )
    assert good.exit_code == 0 and "1 of 1 studies match; 4 objects received" in " ".join(good.output.split())
    bad = run(app, ["fetch", orthanc.dicom, "--out", str(tmp_path / "x"), "--from", "2024-01-03", "--to", "2024-01-03",
                    "--move", f"127.0.0.1:{free_port()}"])  # fmt: skip
    assert bad.exit_code == 1 and "run the same command again" in " ".join(bad.output.split())


# ---------------------------------------------------------------- archives that misbehave


@contextmanager
def _dicom_server(
    matches: Callable[[str], list[Dataset]],
    objects: Callable[[], list[Dataset]],
    services: tuple[str, ...] = (FIND, GET),
) -> Iterator[str]:
    """A PACS whose answers the test writes."""

    def find(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        for one in matches(str(event.identifier.QueryRetrieveLevel)):
            yield 0xFF00, one

    def get(event: Any) -> Iterator[Any]:
        sent = objects()
        yield len(sent)
        for one in sent:
            yield 0xFF00, one

    ae = AE("EVIL")
    for service in services:
        ae.add_supported_context(service)
    for kind in (CT, CR):
        ae.add_supported_context(kind, scu_role=True, scp_role=True)
    port = free_port()
    server = ae.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_FIND, find), (evt.EVT_C_GET, get)]
    )
    try:
        yield f"dicom://EVIL@127.0.0.1:{port}"
    finally:
        server.shutdown()


def _answers(one: Dataset, **changes: object) -> Callable[[str], list[Dataset]]:
    def matches(level: str) -> list[Dataset]:
        found = Dataset()
        found.QueryRetrieveLevel = level
        found.StudyDate, found.StudyInstanceUID = "20240101", one.StudyInstanceUID
        if level != "STUDY":
            found.SeriesInstanceUID, found.Modality = one.SeriesInstanceUID, "CT"
        if level == "IMAGE":
            found.SOPInstanceUID, found.SOPClassUID = one.SOPInstanceUID, one.SOPClassUID
        for keyword, value in changes.items():
            if keyword in found:
                setattr(found, keyword, value)
        return [found]

    return matches


DAY = Query(NEW_YEAR, NEW_YEAR)


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
@pytest.mark.parametrize("value", ["../../escape", "/tmp/escape", "1.2.3/..", "", "1" * 65])
def test_names_that_are_no_uids_are_refused(keyword: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no DICOM UID"):
        archive.valid_uid(value)
    one = _object(1, "1.2.3", "1.2.4", 1)
    with _dicom_server(_answers(one, **{keyword: value}), lambda: [one]) as address:
        if keyword == "StudyInstanceUID":
            with pytest.raises(DataError, match="no DICOM UID"):
                _fetch(address, Access(timeout=5), DAY, tmp_path / "deep" / "in")
        else:
            report = _fetch(address, Access(timeout=5), DAY, tmp_path / "deep" / "in")
            assert len(report.incomplete) == 1 and report.received == 0
    assert [p for p in tmp_path.rglob("*") if "in" not in p.parts and p.name != "deep"] == []
    assert not Path("/tmp/escape").exists()


@pytest.mark.parametrize("what", ["other study", "other object", "nothing", "cut"])
def test_objects_that_are_not_what_was_asked_for_are_not_kept(what: str, tmp_path: Path) -> None:
    one = _object(1, "1.2.3", "1.2.4", 1)
    sent = _object(1, "1.2.3", "1.2.4", 1)
    sent.SOPInstanceUID = sent.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    if what == "other study":
        sent.StudyInstanceUID = "1.2.5"
    elif what == "other object":
        sent.SOPInstanceUID = "1.2.9"
    elif what == "cut":
        del sent.PixelData
    with _dicom_server(_answers(one), lambda: [] if what == "nothing" else [sent]) as address:
        report = _fetch(address, Access(timeout=5), DAY, tmp_path / "in")
    expected = {"other study": "names another study", "other object": "the PACS", "nothing": "did not send",
                "cut": "ends before it is complete"}[what]  # fmt: skip
    assert [expected in reason for _, reason in report.incomplete] == [True] and report.received == 0
    assert [p.name for p in (tmp_path / "in").rglob("*") if p.is_file()] == [".lock", "incomplete.log"]


def test_a_service_that_is_not_offered_is_told(tmp_path: Path) -> None:
    one = _object(1, "1.2.3", "1.2.4", 1)
    with _dicom_server(_answers(one), list, (FIND,)) as address:
        for way, access in (("C-GET", Access()), ("C-MOVE", Access(move_to=f"127.0.0.1:{free_port()}"))):
            with pytest.raises(DataError, match=f"does not offer {way} to MMMED"):
                _fetch(address, access, DAY, tmp_path / way)
    with (
        _dicom_server(_answers(one), list, (GET,)) as address,
        pytest.raises(DataError, match="does not offer C-FIND to MMMED"),
    ):
        _fetch(address, Access(), DAY, tmp_path / "find")


def test_answers_without_end_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmmed.pacs.dimse.MAX_MATCHES", 5)
    one = _object(1, "1.2.3", "1.2.4", 1)
    endless = _dicom_server(lambda level: _answers(one)(level) * 50, list)
    with endless as address, pytest.raises(DataError, match="more than 5 matches"):
        _fetch(address, Access(timeout=5), DAY, tmp_path / "in")


def test_an_object_larger_than_the_limit_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmmed.pacs.dimse._MAX_OBJECT_BYTES", 100_000)
    one = dicom(np.zeros((600, 600), np.uint8), sop_class=CT)
    one.StudyDate = "20240101"
    with _dicom_server(_answers(one), lambda: [one]) as address:
        report = _fetch(address, Access(timeout=5), DAY, tmp_path / "in")
    assert len(report.incomplete) == 1 and report.received == 0


@pytest.mark.parametrize(
    "behaviour",
    [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\2\0\xff\xff\xff\xff" + bytes(64), b"\2\0\0\0\0\x40half"],
    ids=["silent", "no DICOM", "huge PDU", "half a PDU"],
)  # fmt: skip
def test_what_is_no_pacs_is_left_in_time(behaviour: bytes, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                held.append(connection)
                connection.recv(10)
                connection.sendall(behaviour)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(DataError, match="ended the association"):
            _fetch(
                f"dicom://X@127.0.0.1:{listener.getsockname()[1]}", Access(timeout=1), DAY, tmp_path / "in"
            )
        listener.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()


Answer = tuple[int, str, bytes]


@contextmanager
def _web_server(answer: Callable[[str], Answer]) -> Iterator[str]:
    """A DICOMweb service whose answers (status, content type, body) the test writes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if status == 302:
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.send_header("Content-Length", str(len(body) + (100 if kind.startswith("cut") else 0)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with _serving(server):
        yield f"http://127.0.0.1:{server.server_port}/dicom-web"


JSON = "application/dicom+json"


@pytest.mark.parametrize(
    "answer, told",
    [
        ((200, JSON, b"[" * 100_000), "no DICOM"),
        ((200, JSON, b'[{"0020000D": {"vr": "XX", "Value": [{}]}}]'), "no DICOM"),
        ((200, JSON, b'[{"0020000D": {"vr": "UI", "Value": ["../../x"]}}]'), "no DICOM UID"),
        ((200, JSON, b"3"), "no DICOM"),
        ((200, "text/html", b"<html>log in</html>"), "no DICOM"),
        ((500, "text/plain", b"stack trace"), "HTTP 500"),
        ((503, "text/plain", b""), "HTTP 503"),
        ((401, "text/plain", b""), "--credentials"),
        ((302, "text/plain", b""), "another address"),
        ((200, "cut " + JSON, b"[]"), "broke off"),
        ((200, JSON, b" " * 3_000_000), "more than 1 MiB"),
    ],
)  # fmt: skip
def test_dicomweb_answers_that_are_wrong_are_told(
    answer: Answer, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmmed.pacs.dicomweb._MAX_ANSWER_BYTES", 1 << 20)
    with _web_server(lambda _: answer) as address, pytest.raises(DataError, match=told):
        _fetch(address, Access(timeout=5), DAY, tmp_path / "in")


def _matches(one: Dataset, path: str) -> Answer:
    level = "IMAGE" if "instances" in path else "SERIES" if "series" in path else "STUDY"
    found = [] if "offset=1" in path else [ds.to_json_dict() for ds in _answers(one)(level)]
    return 200, JSON, json.dumps(found).encode()


def _encoded(ds: Dataset, tmp_path: Path) -> bytes:
    return save(ds, tmp_path / "sent.dcm").read_bytes()


def test_dicomweb_objects_are_checked_like_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmmed.dicom.file.MAX_INFLATED_BYTES", 1 << 20)
    one = dicom(np.zeros((2048, 1024), np.uint8), sop_class=CT)
    whole = _encoded(one, tmp_path)
    bomb = dicom(np.zeros((2048, 1024), np.uint8), sop_class=CT)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(bomb, keyword, one[keyword].value)
    bomb.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    parts = "multipart/related; type=application/dicom; boundary=x"

    def part(content: bytes) -> bytes:
        return b"--x\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--x--\r\n"

    for number, (kind, body, told) in enumerate(
        [
            (parts, part(whole), ""),
            ("application/dicom", whole, ""),
            (parts, part(whole[:5000])[:-9], "ends before it is complete"),
            (parts, part(_encoded(bomb, tmp_path)), "inflates"),
            (parts, b"no part", "no DICOM"),
            (parts, part(b"no DICOM at all"), "no"),
            (parts, part(whole) + part(whole), "no DICOM"),
        ]
    ):

        def answer(path: str, kind: str = kind, body: bytes = body) -> Answer:
            return (200, kind, body) if "/instances/" in path else _matches(one, path)

        out = tmp_path / str(number)
        with _web_server(answer) as address:
            report = _fetch(address, Access(timeout=5), DAY, out)
        assert (report.received, len(report.incomplete)) == ((0, 1) if told else (1, 0)), (number, report)
        if told:
            assert told in report.incomplete[0][1] and str(out) not in report.incomplete[0][1]
        else:
            assert _received(out)[0].read_bytes() == whole


def test_a_service_without_paging_is_asked_once_more_and_no_further(tmp_path: Path) -> None:
    one, asked = _object(1, "1.2.3", "1.2.4", 1), []

    def answer(path: str) -> Answer:
        asked.append(path)
        return _matches(one, path.replace("offset=1", ""))

    with _web_server(answer) as address, closing(open_archive(address, Access())) as pacs:
        assert len(pacs.find("STUDY", {"StudyInstanceUID": "", "StudyDate": "20240101"})) == 1
    assert len(asked) == 2


# ---------------------------------------------------------------- the inbox


def test_a_full_disk_stops_the_fetch_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = _object(1, "1.2.3", "1.2.4", 1)
    free = inbox_module.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(inbox_module.shutil, "disk_usage", lambda _: free)
    with (
        _dicom_server(_answers(one), lambda: [one]) as address,
        pytest.raises(DataError, match=r"1 GiB.*free space"),
    ):
        _fetch(address, Access(timeout=5), DAY, tmp_path / "in")
    assert _received(tmp_path / "in") == []


def test_links_in_the_folder_are_not_followed(tmp_path: Path) -> None:
    one = _object(1, "1.2.3", "1.2.4", 1)
    content = _encoded(one, tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in" / "1.2.3").symlink_to(tmp_path / "elsewhere")
    inbox = Inbox(tmp_path / "in")
    inbox.expect("1.2.3", "1.2.4", [one.SOPInstanceUID])
    with pytest.raises(DataError, match="symbolic link"):
        inbox.put(one.SOPInstanceUID, content)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_two_fetches_into_one_folder_are_refused(orthanc: Orthanc, tmp_path: Path) -> None:
    def second(done: int, total: int) -> None:
        with pytest.raises(DataError, match="another run"):
            _fetch(orthanc.dicom, Access(), DAY, tmp_path / "in")

    assert _fetch(orthanc.dicom, Access(), DAY, tmp_path / "in", second).received == 5


# ---------------------------------------------------------------- what the engineer writes


@pytest.mark.parametrize(
    "address, access, told",
    [
        ("ftp://x", Access(), "expected dicom://"),
        ("dicom://host:104", Access(), "expected dicom://"),
        ("dicom://A@host", Access(), "expected dicom://"),
        ("dicom://A@host:99999", Access(), "expected dicom://"),
        ("dicom://ABCDEFGHIJKLMNOPQ@host:104", Access(), "1 to 16"),
        ("dicom://A@host:104", Access(own_title="Ä"), "1 to 16"),
        ("dicom://A@host:104", Access(move_to="11112"), "ADDRESS:PORT"),
        ("dicom://A@host:104", Access(ca=Path(__file__)), "dicoms://"),
        ("dicom://A@host:104", Access(credentials=Path(__file__)), "for DICOMweb"),
        ("dicoms://A@host:104", Access(move_to="127.0.0.1:9"), "--cert"),
        ("dicoms://A@host:104", Access(cert=Path(__file__)), "PEM"),
        ("dicoms://A@host:104", Access(cert=Path("absent")), "no such file"),
        ("https://user:word@host/x", Access(), "--credentials FILE"),
        ("https://host/x?y=1", Access(), "expected dicom://"),
        ("https://host/x", Access(move_to="127.0.0.1:9"), "not for DICOMweb"),
        ("https://host/x", Access(cert=Path(__file__)), "PEM"),
        ("https://host/x", Access(credentials=Path(__file__)), "chmod 600"),
        ("http://host/x", Access(credentials=Path(__file__)), "https"),
    ],
)  # fmt: skip
def test_addresses_that_make_no_sense_are_told(address: str, access: Access, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        open_archive(address, access)
    assert "word" not in str(caught.value).replace("password", "")


def test_queries_match_what_the_archive_answers() -> None:
    query = Query(NEW_YEAR, NEW_YEAR, ("CT", "MR"), "*thor?x*")
    found = Dataset()
    found.StudyDate, found.ModalitiesInStudy, found.StudyDescription = (
        "20240101",
        ["SR", "CT"],
        "ct Thorax [nativ]",
    )
    assert query.wants_study(found, NEW_YEAR)
    assert not query.wants_study(found, NEW_YEAR + datetime.timedelta(1))
    found.ModalitiesInStudy = "CR"
    assert not query.wants_study(found, NEW_YEAR)
    del found.ModalitiesInStudy  # an optional answer: the series tell
    assert query.wants_study(found, NEW_YEAR)
    found.StudyDescription = "Thorx"
    assert not query.wants_study(found, NEW_YEAR)
    assert [keys["ModalitiesInStudy"] for keys in query.keys(NEW_YEAR)] == ["CT", "MR"]
    for wrong in (
        lambda: Query(NEW_YEAR, NEW_YEAR - datetime.timedelta(1)),
        lambda: Query(NEW_YEAR, NEW_YEAR, ("ct*",)),
        lambda: Query(NEW_YEAR, NEW_YEAR, (), "a\\b"),
    ):
        with pytest.raises(ConfigError):
            wrong()
