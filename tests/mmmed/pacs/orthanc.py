"""A real Orthanc on loopback, with its own storage and free ports; skipped where it cannot start."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import pytest

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
TITLE = "ARCHIVE"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Orthanc:
    """A server that the tests start, stop and start again; its studies stay."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.program = shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        if self.program is None:
            pytest.skip("no Orthanc here: apt-get install orthanc orthanc-dicomweb")
        self.folder, self.dicom_port, self.http_port = folder, free_port(), free_port()
        self.move_port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._configuration = {
            "Name": "test",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "Plugins": [str(PLUGIN)] if PLUGIN.exists() else [],
            "HttpServerEnabled": True,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomServerEnabled": True,
            "DicomAet": TITLE,
            "DicomCheckCalledAet": True,
            "DicomPort": self.dicom_port,
            "DicomAlwaysAllowGet": False,
            "DicomModalities": {
                "us": {"AET": "MMMED", "Host": "127.0.0.1", "Port": self.move_port, "AllowEcho": True,
                       "AllowFind": True, "AllowGet": True, "AllowMove": True, "AllowStore": False},
            },
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "StudiesMetadata": "Full"},
            **settings,
        }  # fmt: skip

    @property
    def dicom(self) -> str:
        return f"dicom://{TITLE}@127.0.0.1:{self.dicom_port}"

    @property
    def web(self) -> str:
        if not PLUGIN.exists():
            pytest.skip("no DICOMweb plug-in of Orthanc here: apt-get install orthanc-dicomweb")
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    def start(self) -> Orthanc:
        file = self.folder / "orthanc.json"
        file.write_text(json.dumps(self._configuration))
        log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen([str(self.program), str(file)], stdout=log, stderr=log)
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as dicom, socket.socket() as http:
                if not dicom.connect_ex(("127.0.0.1", self.dicom_port)) and not http.connect_ex(
                    ("127.0.0.1", self.http_port)
                ):
                    return self
            time.sleep(0.05)
        self.stop()
        pytest.skip(f"Orthanc does not start here: {(self.folder / 'log').read_text()[-300:]}")

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def fill(self, files: Iterable[Path]) -> None:
        for file in files:
            request = urllib.request.Request(
                f"http://127.0.0.1:{self.http_port}/instances", data=file.read_bytes()
            )
            urllib.request.urlopen(request).close()

    def send_over_tls(self, tls: bool = True) -> None:
        """From the next start on, what we ask to be sent comes over TLS, or in clear."""
        self._configuration["DicomModalities"]["us"]["UseDicomTls"] = tls  # type: ignore[index]

    def require_password(self) -> None:
        """From the next start on, HTTP wants one of the registered users."""
        self._configuration["AuthenticationEnabled"] = True
