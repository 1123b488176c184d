"""A PACS that speaks DICOMweb: QIDO-RS and WADO-RS (PS3.18 chapter 10)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset
from requests import exceptions
from urllib3.exceptions import NameResolutionError, NewConnectionError

from mmmed.errors import DataError
from mmmed.pacs.archive import MAX_MATCHES, Level, Refused, Series, Unreachable, attempts
from mmmed.pacs.inbox import MAX_FILE_BYTES, Inbox

_PAGE = 500
_MAX_ANSWER_BYTES = 64 << 20
_LONGEST_RESPONSE = 1800.0  # seconds; who sends drop by drop is no archive
_CHUNK = 1 << 20
_BUSY = (408, 429, 503, 504)
_KINDS: dict[Level, str] = {"STUDY": "studies", "SERIES": "series", "IMAGE": "instances"}
_IDENTITIES: dict[Level, str] = {
    "STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID",
}  # fmt: skip
_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'  # as stored


class DicomwebArchive:
    """A PACS that speaks DICOMweb. See `Archive` for the methods."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        ca: str | None = None,
        cert: str | None = None,
        timeout: float = 120.0,
    ) -> None:
        """
        Args:
            url: of the DICOMweb service.
            headers: sent with every request, to authorise; None for none.
            ca: PEM file of the authorities that are trusted; None for the usual ones.
            cert: PEM file of our certificate with its private key; None for none.
            timeout: seconds without data; connecting may take 10 s of it at most.
        """
        session = requests.Session()
        session.trust_env = False  # no proxy and no .netrc: this goes to the PACS and nowhere else
        session.max_redirects = 0
        session.verify = ca or True
        session.cert = cert
        self._url = url
        self._client = _Client(
            url, session=session, headers=dict(headers or {}), callback=self._read_bounded, permissive_uid=True,
            timeout=(min(10.0, timeout), timeout),
        )  # fmt: skip
        self._client.set_http_retry_params(retry=False)  # `_ask` tries again, and knows what is worth it
        self._session = session

    def close(self) -> None:
        self._session.close()

    def find(self, level: Level, keys: Mapping[str, str]) -> list[Dataset]:
        keys = dict(keys)
        place = {"study_instance_uid": "StudyInstanceUID", "series_instance_uid": "SeriesInstanceUID"}
        where = {name: keys.pop(keyword) for name, keyword in place.items() if keys.get(keyword)}
        search = getattr(self._client, f"search_for_{_KINDS[level]}")
        filters = {keyword: value for keyword, value in keys.items() if value}
        fields = [keyword for keyword, value in keys.items() if not value]
        identity = _IDENTITIES[level]
        found: dict[str, Dataset] = {}
        while True:
            options = {"search_filters": filters, "fields": fields, "limit": _PAGE, "offset": len(found)}
            page = self._ask(
                "question", lambda options=options: list(map(_dataset, search(**where, **options)))
            )
            new = {str(one.get(identity)): one for one in page}
            if new.keys() <= found.keys():  # the end, or a server that begins again at the beginning
                return list(found.values())
            found |= new
            if len(found) > MAX_MATCHES:
                raise Refused(f"the PACS answers one question with more than {MAX_MATCHES:,} matches")

    def retrieve(self, series: Series, missing: Collection[str], inbox: Inbox) -> None:
        inbox.expect(series.study, series.uid, missing)
        failure: Refused | None = None
        for sop in missing:
            try:
                where = (series.study, series.uid, sop)
                content = self._ask("retrieval", lambda where=where: self._client.retrieve_instance(*where))
                with contextlib.suppress(DataError):  # the inbox remembers the reason
                    inbox.put(sop, content)
            except Refused as error:  # the other objects may come
                failure = error
        if failure is not None:
            raise failure

    def _ask(self, what: str, call: Callable[..., Any]) -> Any:
        """Call the client, and turn what it raises into `Refused` or `Unreachable`."""
        failure: Exception | None = None
        for _ in attempts():
            try:
                return call()
            except DataError:
                raise
            except Exception as error:  # what answers may be no DICOMweb service at all
                failure = error
                if not _may_pass(error):
                    break
        assert failure is not None
        raise self._explained(failure, what) from failure

    def _explained(self, error: Exception, what: str) -> DataError:
        status = _status(error)
        if isinstance(error, exceptions.SSLError):
            return Unreachable(
                f"{self._url}: TLS failed; name the authority of its certificate with --ca, ours with --cert"
            )
        if status in (401, 403):
            return Unreachable(f"{self._url}: not authorised (HTTP {status}); check the --credentials file")
        if isinstance(error, exceptions.TooManyRedirects):
            return Unreachable(f"{self._url}: it points to another address; name that one")
        if isinstance(error, exceptions.ConnectTimeout) or _not_connected(error):
            return Unreachable(
                f"{self._url}: no connection; check address and firewall, and that the PACS runs"
            )
        foreign = isinstance(error, exceptions.JSONDecodeError)
        if isinstance(error, exceptions.RequestException) and not foreign:
            answer = f"HTTP {status}" if status else "it went silent, broke off or is overloaded"
            return Refused(f"the PACS failed a {what} ({answer})")
        return Refused(
            f"the PACS answered a {what} with what is no DICOM ({type(error).__name__}); "
            "is the address that of its DICOMweb service?"
        )

    @staticmethod
    def _read_bounded(response: requests.Response, *_: object, **__: object) -> None:
        """Read a response's body in pieces, so that one that is too long can be stopped."""
        question = "json" in str(response.request.headers.get("Accept"))
        limit = _MAX_ANSWER_BYTES if question else MAX_FILE_BYTES + _CHUNK
        deadline, body = time.monotonic() + _LONGEST_RESPONSE, bytearray()
        for piece in response.iter_content(_CHUNK):
            body += piece
            if len(body) > limit or time.monotonic() > deadline:
                response.close()
                raise Refused(f"the PACS sent more than {limit >> 20} MiB, or sent it for hours")
        response._content = bytes(body)


class _Client(DICOMwebClient):
    """Hands objects over as they were sent: parsing here could unpack without bounds, and would encode anew."""

    def _http_get_multipart_application_dicom(self, url: str, *_: Any, **__: Any) -> Iterator[Any]:
        response = self._http_get(url, headers={"Accept": _ACCEPT})
        if response.headers["Content-Type"].startswith("application/dicom"):
            return iter([response.content])
        return self._decode_multipart_message(response, stream=False)


def _status(error: Exception) -> int:
    response = error.response if isinstance(error, exceptions.RequestException) else None
    return 0 if response is None else response.status_code


def _may_pass(error: Exception) -> bool:
    """Whether another attempt may succeed."""
    broken = (exceptions.ConnectionError, exceptions.Timeout, exceptions.ChunkedEncodingError)
    return (isinstance(error, broken) and not isinstance(error, exceptions.SSLError)) or _status(
        error
    ) in _BUSY


def _not_connected(error: Exception) -> bool:
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(reason, NewConnectionError | NameResolutionError)


def _dataset(found: Any) -> Dataset:
    """A match; values that are no DICOM are left out."""
    simple = {
        tag: value
        for tag, value in dict(found).items()
        if "BulkDataURI" not in value and value.get("vr") != "SQ"
    }
    return Dataset.from_json(simple)
