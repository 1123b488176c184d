"""Images that come by DICOMweb (STOW-RS, PS3.18 section 10.5), each answered by a structured report.

Nothing is stored, so the answer is not a store's: it is the reports themselves, as DICOM files side by side
(multipart/related) or, where that alone is accepted, in the DICOM JSON Model (PS3.18 annex F).
"""

from __future__ import annotations

import io
import json
from email.message import Message
from pathlib import Path
from uuid import uuid4

from fastapi import HTTPException, Request, Response
from pydicom import dcmread
from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from starlette.requests import ClientDisconnect

DICOM, JSON = "application/dicom", "application/dicom+json"
_TYPE = f'multipart/related; type="{DICOM}"'


async def read_instances(request: Request, most: int) -> list[bytes]:
    """The DICOM files of a request, at least one and at most so many.

    Raises:
        HTTPException: 415, it is no multipart/related of DICOM files; 400, it cannot be read, ends before its end, or
            has none or too many.
    """
    kind, options = _parsed(request.headers.get("content-type", ""))
    if kind != "multipart/related" or options.get("type", "").lower() != DICOM or not options.get("boundary"):
        raise HTTPException(415, f"expected {_TYPE} with its boundary, a DICOM file a part")
    found: list[bytearray] = []
    ended = False

    def begin() -> None:
        if len(found) >= most:
            raise HTTPException(400, f"more than {most} DICOM files in one request: send them in several")
        found.append(bytearray())

    def data(chunk: bytes, start: int, end: int) -> None:
        found[-1] += chunk[start:end]

    def end() -> None:
        nonlocal ended
        ended = True

    parser = MultipartParser(
        options["boundary"], {"on_part_begin": begin, "on_part_data": data, "on_end": end}
    )
    try:
        async for chunk in request.stream():
            parser.write(chunk)
    except (MultipartParseError, ClientDisconnect) as error:
        raise HTTPException(
            400, f"the {_TYPE} cannot be read: expected parts between its boundaries"
        ) from error
    if not ended or not found:
        raise HTTPException(400, f"the {_TYPE} has no part, or ends before its closing boundary")
    return [bytes(one) for one in found]


def write_instance(content: bytes, folder: Path) -> Path:
    """A file of one of them."""
    path = folder / f"{uuid4().hex}.dcm"
    path.write_bytes(content)
    return path


def answer(reports: list[bytes], accept: str) -> Response:
    """The reports, DICOM files, as a request's header Accept asks for them.

    Raises:
        HTTPException: 406, it asks for neither form.
    """
    accepted = [_parsed(one) for one in (accept or "*/*").split(",")]
    if any(
        kind in ("*/*", "multipart/*")
        or (kind == "multipart/related" and options.get("type", DICOM).lower() == DICOM)
        for kind, options in accepted
    ):
        boundary = uuid4().hex
        head = f"--{boundary}\r\nContent-Type: {DICOM}\r\n\r\n".encode()
        body = b"".join(head + one + b"\r\n" for one in reports) + f"--{boundary}--\r\n".encode()
        return Response(body, media_type=f"{_TYPE}; boundary={boundary}")
    if any(kind in (JSON, "application/json", "application/*") for kind, _ in accepted):
        told = [dcmread(io.BytesIO(one)).to_json_dict() for one in reports]
        return Response(json.dumps(told), media_type=JSON)
    raise HTTPException(406, f"the reports can be had as {_TYPE}, or as {JSON}")


def _parsed(header: str) -> tuple[str, dict[str, str]]:
    """A media type in small letters, and its parameters."""
    message = Message()
    message["content-type"] = header
    pairs = message.get_params(failobj=[], unquote=True)
    if not pairs:
        return "", {}
    return pairs[0][0].strip().lower(), {str(k).lower(): str(v) for k, v in pairs[1:]}
