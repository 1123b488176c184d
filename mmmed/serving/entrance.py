"""A DICOM entrance: an image that comes by C-STORE is answered by a structured report, sent by C-STORE (PS3.4 annex B).

The sender is told that the image was taken once the report has been delivered, and an error otherwise: nothing waits
here, and nothing is kept. AE titles are names, no proof of who comes: so it listens on this machine alone, and a report
goes to this machine alone; from others they come through a tunnel that proves it, such as stunnel with certificates.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote, urlsplit

from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import ComprehensiveSRStorage, Verification  # type: ignore[attr-defined]

from mmmed.errors import ConfigError, DataError
from mmmed.listening import is_loopback
from mmmed.pacs.dimse import SYNTAXES
from mmmed.pacs.guard import MAX_PDU_BYTES, Guard
from mmmed.serving.app import Served, tell
from mmmed.serving.guard import Bounds, Counts

_HERE = "127.0.0.1"
_TITLE = r"[ -\[\]-~]{1,16}"
_SUCCESS, _OUT_OF_RESOURCES, _NOT_UNDERSTOOD, _FAILED = 0x0000, 0xA700, 0xC000, 0x0110


@dataclass(frozen=True)
class Entrance:
    """Who may come, and where answers go.

    Attributes:
        port: to listen on, of this machine; 0 for any that is free.
        title: our AE title, by which it must be called.
        callers: AE titles that may come.
        peer: of who is sent the reports, its AE title, host and port.
    """

    port: int
    title: str
    callers: tuple[str, ...]
    peer: tuple[str, str, int]


def read_entrance(port: int, title: str, callers: list[str], to: str) -> Entrance:
    """An entrance from what the command was given.

    Raises:
        ConfigError: no AE title, nobody who may come, or no peer of this machine.
    """
    if not callers:
        raise ConfigError(
            "--dicom-port: nobody may come. Name the AE titles of those who may with --dicom-from"
        )
    for one in (title, *callers):
        if not re.fullmatch(_TITLE, one) or not one.strip():
            raise ConfigError(f"AE title {one!r}: expected 1 to 16 ASCII characters without backslash")
    expected = "expected dicom://AET@127.0.0.1:PORT, where the reports go"
    try:
        parts = urlsplit(to)
        peer = (unquote(parts.username or ""), parts.hostname or "", parts.port or 0)
    except ValueError as error:
        raise ConfigError(f"--dicom-to {to}: {error}; {expected}") from error
    if parts.scheme != "dicom" or not re.fullmatch(_TITLE, peer[0]) or not peer[2] or parts.path.strip("/"):
        raise ConfigError(f"--dicom-to {to}: {expected}")
    if not is_loopback(peer[1]):
        raise ConfigError(
            f"--dicom-to {to}: others could read along. Send to this machine, and from there through a tunnel (stunnel)"
        )
    return Entrance(port, title, tuple(callers), peer)


def open_entrance(
    entrance: Entrance, served: Served, bounds: Bounds, counts: Counts
) -> tuple[int, Callable[[], None]]:
    """Listen, in threads of its own, as many at one time as `bounds` has studies.

    Returns:
        The port, and what closes it.

    Raises:
        ConfigError: the model reads no image, or the port is taken.
    """
    if "image" not in served.inputs:
        raise ConfigError("--dicom-port: the model reads no image, and nothing else comes by DICOM")
    guard = Guard(bounds.seconds, bounds.request_bytes, bounds.seconds)
    ae = AE(ae_title=entrance.title)
    ae.add_supported_context(Verification)
    for context in AllStoragePresentationContexts:
        ae.add_supported_context(str(context.abstract_syntax), SYNTAXES)
    ae.require_called_aet, ae.require_calling_aet = True, list(entrance.callers)
    _bound(ae, bounds)

    def store(event: Any) -> int:
        status = _answer(event, entrance, served, bounds)
        counts.requests.labels("dicom", f"0x{status:04X}").inc()
        return status

    try:
        server = ae.start_server(
            (_HERE, entrance.port), block=False, evt_handlers=[*guard.handlers(), (evt.EVT_C_STORE, store)]
        )
    except OSError as error:
        raise ConfigError(f"--dicom-port {entrance.port}: {error.strerror}. Choose another") from error
    assert server is not None
    return server.server_address[1], server.shutdown


def _bound(ae: AE, bounds: Bounds) -> None:
    ae.maximum_associations, ae.maximum_pdu_size = bounds.studies, MAX_PDU_BYTES
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = bounds.seconds


def _answer(event: Any, entrance: Entrance, served: Served, bounds: Bounds) -> int:
    """The status of a C-STORE (PS3.4 table B.2-1, PS3.7 annex C)."""
    try:
        with TemporaryDirectory(prefix="mmmed-request-") as folder:
            image = Path(folder) / "image.dcm"
            image.write_bytes(event.encoded_dataset())
            found = served.predict(image=image)
            report = dcmread(io.BytesIO(served.report(found, image=image)))
    except DataError:
        return _NOT_UNDERSTOOD
    except OSError:
        return _OUT_OF_RESOURCES
    except Exception as error:  # whatever an image does to the network: who sent it is told that it failed
        tell(error)
        return _FAILED
    return _SUCCESS if _sent(report, entrance, bounds) else _OUT_OF_RESOURCES


def _sent(report: Dataset, entrance: Entrance, bounds: Bounds) -> bool:
    title, host, port = entrance.peer
    ae = AE(ae_title=entrance.title)
    ae.add_requested_context(ComprehensiveSRStorage, ExplicitVRLittleEndian)
    _bound(ae, bounds)
    guard = Guard(bounds.seconds, bounds.request_bytes, bounds.seconds)
    association = ae.associate(
        host, port, ae_title=title, max_pdu=MAX_PDU_BYTES, evt_handlers=[*guard.handlers()]
    )
    if not association.is_established:
        return False
    try:
        status = association.send_c_store(report)
        return bool("Status" in status and status.Status in (_SUCCESS, 0xB000, 0xB006, 0xB007))
    except (RuntimeError, ValueError, AttributeError):  # the peer takes no such object, or went away
        return False
    finally:
        association.release()
