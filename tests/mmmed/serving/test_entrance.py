"""The DICOM entrance on loopback: images in by C-STORE, reports out by C-STORE."""

from __future__ import annotations

import json
import socket
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import ComprehensiveSRStorage, ComputedRadiographyImageStorage, Verification
from torch import nn

from mmmed import Model
from mmmed.errors import ConfigError
from mmmed.models import build_model
from mmmed.serving.app import Served
from mmmed.serving.entrance import Entrance, open_entrance, read_entrance
from mmmed.serving.guard import Bounds, Counts
from tests.mmmed.dicom.files import dicom
from tests.mmmed.models.test_models import configured
from tests.mmmed.pacs.orthanc import TITLE, Orthanc, free_port

BOUNDS = Bounds(200_000, 20, 2)


@pytest.fixture(scope="module")
def model() -> Model:
    config = configured(privacy={"enabled": False})
    network = build_model(config).eval()
    nn.init.normal_(network.head.weight)
    return Model(network, config)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def served(model: Model, **changes: Any) -> Served:
    given = {
        "name": "run", "inputs": model.inputs, "files": frozenset(["image"]), "predict": model.predict,
        "explain": model.explain, "report": model.structured_report,
    }  # fmt: skip
    return Served(**given | changes)


@contextmanager
def entrance(model: Model, peer: int, counts: Counts | None = None, **changes: Any) -> Iterator[int]:
    chosen = Entrance(0, "MODEL", ("SCANNER",), ("PACS", "127.0.0.1", peer))
    port, close = open_entrance(chosen, served(model, **changes), BOUNDS, counts or Counts())
    try:
        yield port
    finally:
        close()


@contextmanager
def pacs(kept: list[Dataset], status: int = 0) -> Iterator[int]:
    def keep(event: Any) -> int:
        assert event.assoc.requestor.ae_title == "MODEL"
        kept.append(event.dataset)
        return status

    ae = AE("PACS")
    ae.add_supported_context(ComprehensiveSRStorage)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    assert server is not None
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def send(port: int, image: Dataset, own: str = "SCANNER", called: str = "MODEL") -> int | None:
    """The status of a C-STORE; None if there was none."""
    ae = AE(own)
    ae.add_requested_context(ComputedRadiographyImageStorage, ExplicitVRLittleEndian)
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        return None
    try:
        assert association.send_c_echo().Status == 0
        return association.send_c_store(image).get("Status")
    finally:
        association.release()


def film(size: int = 40, **elements: object) -> Dataset:
    pixels = np.random.default_rng(0).integers(0, 4095, (size, 30), dtype=np.uint16)
    return dicom(pixels, bits=12, **elements)


def test_an_image_is_answered_by_its_report_and_nothing_is_kept(model: Model, temporary: Path) -> None:
    kept: list[Dataset] = []
    image, counts = film(PatientID="P-17"), Counts()
    with pacs(kept) as peer, entrance(model, peer, counts) as port:
        assert send(port, image) == 0
    (report,) = kept
    assert (report.PatientID, report.StudyInstanceUID) == ("P-17", image.StudyInstanceUID)
    image.save_as(temporary / "film.dcm", enforce_file_format=True)
    expected = list(model.predict(image=temporary / "film.dcm").values.values())
    group = report.ContentSequence[-1].ContentSequence[0].ContentSequence
    given = [float(one.MeasuredValueSequence[0].NumericValue) for one in group if one.ValueType == "NUM"]
    assert given == pytest.approx(expected, abs=1e-6)
    assert [path.name for path in temporary.iterdir()] == ["film.dcm"]
    assert (
        counts.registry.get_sample_value("mmmed_requests_total", {"path": "dicom", "status": "0x0000"}) == 1
    )


def test_who_may_not_come_and_what_is_no_film_are_refused(
    model: Model, temporary: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kept: list[Dataset] = []
    with pacs(kept) as peer, entrance(model, peer) as port:
        assert send(port, film(), own="STRANGER") is None and send(port, film(), called="OTHER") is None
        cut = film(PatientID="P-17")
        del cut.PixelData
        assert send(port, cut) == 0xC000
        homeless = film()
        del homeless.StudyInstanceUID
        assert send(port, homeless) == 0xC000
        assert send(port, film(size=8000)) is None  # above the bound: the association is ended
        assert send(port, film()) == 0
    assert len(kept) == 1 and not list(temporary.iterdir())
    assert "P-17" not in "".join(capfd.readouterr())


def test_the_sender_is_told_where_the_report_did_not_arrive_or_the_model_failed(
    model: Model, temporary: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(**_: object) -> None:
        raise RuntimeError("a tensor of P-17")

    with entrance(model, free_port()) as port:
        assert send(port, film()) == 0xA700
    with pacs([], status=0xA700) as peer, entrance(model, peer) as port:
        assert send(port, film()) == 0xA700
    with pacs([]) as peer, entrance(model, peer, predict=fails) as port:
        assert send(port, film()) == 0x0110
    said = capfd.readouterr().err
    assert "error: RuntimeError in test_entrance.py" in said and "P-17" not in said
    assert not list(temporary.iterdir())


def test_an_entrance_that_others_could_use_or_read_along_is_not_opened(model: Model) -> None:
    here = "dicom://PACS@127.0.0.1:104"
    assert read_entrance(0, "M", ["A", "B"], here).peer == ("PACS", "127.0.0.1", 104)
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: read_entrance(0, "M", [], here), "nobody may come"),
        (lambda: read_entrance(0, "M" * 17, ["A"], here), "1 to 16 ASCII"),
        (lambda: read_entrance(0, "M", ["a\\b"], here), "1 to 16 ASCII"),
        (lambda: read_entrance(0, "M", ["A"], "dicom://PACS@pacs.example:104"), "read along"),
        (lambda: read_entrance(0, "M", ["A"], "dicoms://PACS@127.0.0.1:104"), "expected dicom://"),
        (lambda: read_entrance(0, "M", ["A"], "dicom://127.0.0.1:104"), "expected dicom://"),
        (lambda: read_entrance(0, "M", ["A"], "dicom://P@127.0.0.1:99999"), "expected dicom://"),
        (lambda: read_entrance(0, "M", ["A"], ""), "expected dicom://"),
    ]
    for asked, told in wrong:
        with pytest.raises(ConfigError, match=told):
            asked()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        chosen = Entrance(taken.getsockname()[1], "M", ("A",), ("P", "127.0.0.1", 104))
        with pytest.raises(ConfigError, match="Choose another"):
            open_entrance(chosen, served(model), BOUNDS, Counts())
    with pytest.raises(ConfigError, match="reads no image"):
        open_entrance(chosen, served(model, inputs=("text",)), BOUNDS, Counts())


def test_an_orthanc_that_sends_a_film_has_the_report_beside_it(model: Model, tmp_path: Path) -> None:
    orthanc, own = Orthanc(tmp_path / "orthanc"), free_port()
    chosen = Entrance(own, "MODEL", (TITLE,), (TITLE, "127.0.0.1", orthanc.dicom_port))
    orthanc._configuration["DicomModalities"] = {"model": ["MODEL", "127.0.0.1", own]}
    image = film(PatientID="P-17")
    image.save_as(tmp_path / "film.dcm", enforce_file_format=True)

    def ask(path: str, body: bytes | None = None) -> Any:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{orthanc.http_port}/{path}", body, timeout=60
        ) as answer:
            return json.load(answer)

    orthanc.start()
    _, close = open_entrance(chosen, served(model), BOUNDS, Counts())
    try:
        stored = ask("instances", (tmp_path / "film.dcm").read_bytes())
        ask("modalities/model/store", stored["ID"].encode())
        deadline = time.monotonic() + 30
        while len(ask("instances")) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        (study,) = ask("studies")
        kinds = [
            ask(f"series/{one}")["MainDicomTags"]["Modality"] for one in ask(f"studies/{study}")["Series"]
        ]
        assert sorted(kinds) == ["CR", "SR"]
    finally:
        close()
        orthanc.stop()
