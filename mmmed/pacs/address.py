"""From what the engineer writes to an open PACS: address, credentials, TLS."""

from __future__ import annotations

import base64
import ipaddress
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from mmmed.errors import ConfigError
from mmmed.pacs.archive import Archive

_EXPECTED = (
    "expected dicom://AET@host:port, dicoms://AET@host:port (TLS) or https://host/path of a DICOMweb service"
)


@dataclass(frozen=True)
class Access:
    """How to speak to a PACS.

    Attributes:
        own_title: our AE title (DIMSE).
        move_to: ``address:port`` of this machine on which C-MOVE is received; "" takes C-GET (DIMSE).
        credentials: file with ``user:password`` or ``Bearer TOKEN``, readable by its owner alone (DICOMweb).
        ca: PEM file of the authorities that are trusted; None takes those of the system.
        cert: PEM file with our certificate and its key.
        timeout: seconds that the PACS may be silent.
    """

    own_title: str = "MMMED"
    move_to: str = ""
    credentials: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    timeout: float = 120.0


def open_archive(address: str, access: Access) -> Archive:
    """The PACS at ``address``. Raises `ConfigError` if address or access make no sense."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{address}: {error}; {_EXPECTED}") from error
    for file in (access.ca, access.cert, access.credentials):
        if file is not None and not file.is_file():
            raise ConfigError(f"{file}: no such file")
    if parts.scheme in ("dicom", "dicoms"):
        return _dimse(address, parts, port, access)
    if parts.scheme in ("http", "https"):
        return _dicomweb(address, parts, access)
    raise ConfigError(f"{address}: {_EXPECTED}")


def _dimse(address: str, parts: SplitResult, port: int | None, access: Access) -> Archive:
    from mmmed.pacs.dimse import DimseArchive, DimsePeer

    title = unquote(parts.username or "")
    if not title or not parts.hostname or not port or parts.path.strip("/") or parts.password:
        raise ConfigError(f"{address}: {_EXPECTED}")
    for one in (title, access.own_title):
        if not re.fullmatch(r"[ -\[\]-~]{1,16}", one) or not one.strip():
            raise ConfigError(f"AE title {one!r}: expected 1 to 16 ASCII characters without backslash")
    if access.credentials is not None:
        raise ConfigError(
            f"{address}: --credentials are for DICOMweb; a DICOM PACS knows us by AE title and --cert"
        )
    receive_at = None
    if access.move_to:
        host, _, number = access.move_to.rpartition(":")
        if not host or not number.isdigit() or not 0 < int(number) < 65536:
            raise ConfigError(f"--move {access.move_to}: expected ADDRESS:PORT of this machine")
        receive_at = (host.strip("[]"), int(number))
    client = server = None
    if parts.scheme == "dicoms":
        client = ssl.create_default_context(cafile=access.ca and str(access.ca))
        if receive_at:
            if access.cert is None:
                raise ConfigError(f"{address}: --move over TLS needs our certificate and key: --cert")
            server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=access.ca and str(access.ca))
            server.verify_mode = ssl.CERT_REQUIRED
        for context in (client, server):
            if context is not None and access.cert is not None:
                _load(context, access.cert)
    elif access.ca or access.cert:
        raise ConfigError(f"{address}: --ca and --cert need TLS: dicoms://")
    return DimseArchive(
        DimsePeer(title, parts.hostname, port, access.own_title, receive_at, client, server, access.timeout)
    )


def _dicomweb(address: str, parts: SplitResult, access: Access) -> Archive:
    from mmmed.pacs.dicomweb import DicomwebArchive

    if not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"{address}: {_EXPECTED}")
    if parts.username or parts.password:
        raise ConfigError(
            "user and password do not belong into the address: put them into a file, --credentials FILE"
        )
    if access.move_to:
        raise ConfigError(f"{address}: --move is for DICOM, not for DICOMweb")
    headers = {}
    if access.credentials is not None:
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            raise ConfigError(f"{address}: credentials would travel in clear; use https://")
        headers["Authorization"] = _authorization(access.credentials)
    if access.cert is not None:
        _load(ssl.create_default_context(), access.cert)
    ca, cert = (str(file) if file else None for file in (access.ca, access.cert))
    return DicomwebArchive(address.rstrip("/"), headers=headers, ca=ca, cert=cert, timeout=access.timeout)


def _authorization(file: Path) -> str:
    """RFC 7617 Basic or RFC 6750 Bearer."""
    if file.stat().st_mode & 0o077:
        raise ConfigError(f"{file}: others can read it; chmod 600 {file}")
    text = file.read_text(errors="replace").strip()
    if re.fullmatch(r"Bearer [\w.~+/=-]+", text):
        return text
    if re.fullmatch(r"[^\s:]+:[^\r\n]+", text):
        return f"Basic {base64.b64encode(text.encode()).decode()}"
    raise ConfigError(f"{file}: expected one line, user:password or Bearer TOKEN")


def _load(context: ssl.SSLContext, cert: Path) -> None:
    try:
        context.load_cert_chain(cert)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"{cert}: expected a PEM file with our certificate and its unencrypted key ({error})"
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
