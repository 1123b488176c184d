"""A PACS that speaks DIMSE: C-FIND, and C-GET or C-MOVE to a storage of our own (PS3.4 annex C, PS3.7)."""

from __future__ import annotations

import ssl
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset
from pydicom import uid as syntaxes
from pynetdicom import (
    AE,
    AllStoragePresentationContexts,
    StoragePresentationContexts,
    build_context,
    build_role,
    evt,
)
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from mmmed.errors import DataError
from mmmed.pacs.archive import MAX_MATCHES, Level, Refused, Series, Unreachable, attempts
from mmmed.pacs.guard import MAX_PDU_BYTES, Guard
from mmmed.pacs.inbox import MAX_FILE_BYTES, Inbox

FIND, MOVE, GET = (syntaxes.UID(f"1.2.840.10008.5.1.4.1.2.2.{n}") for n in (1, 2, 3))  # Study Root
_UNCOMPRESSED: list[str | syntaxes.UID] = [syntaxes.ExplicitVRLittleEndian, syntaxes.ImplicitVRLittleEndian]
SYNTAXES: list[str | syntaxes.UID] = [  # as stored, so that nothing is decoded or compressed on the way
    *_UNCOMPRESSED, syntaxes.JPEGBaseline8Bit, syntaxes.JPEGExtended12Bit, syntaxes.JPEGLossless,
    syntaxes.JPEGLosslessSV1, syntaxes.JPEGLSLossless, syntaxes.JPEGLSNearLossless, syntaxes.JPEG2000Lossless,
    syntaxes.JPEG2000, syntaxes.RLELossless, syntaxes.DeflatedExplicitVRLittleEndian, syntaxes.ExplicitVRBigEndian,
]  # fmt: skip
_MAX_STORAGE_CONTEXTS = 127  # 128 in an association (PS3.8 section 9.3.2.2), one of them for C-GET
_OBJECTS_A_REQUEST = 50
_MAX_ANSWER_BYTES = 16 << 20
_MAX_OBJECT_BYTES = MAX_FILE_BYTES + (1 << 20)
_SERVICES: dict[str, str] = {FIND: "C-FIND", GET: "C-GET", MOVE: "C-MOVE"}
_MEANINGS = {  # PS3.4 tables C.4-1 to C.4-3, PS3.7 annex C
    0xA700: "it is out of resources",
    0xA701: "it is out of resources",
    0xA702: "it could not send; for C-MOVE, can it reach the address that it knows for our AE title?",
    0xA801: "it does not know our AE title as a move destination; have title, address and port entered there",
    0xA900: "it does not support this kind of question",
    0x0122: "it does not offer this service",
    0x0124: "we are not authorised",
    0xFE00: "it cancelled",
}


@dataclass(frozen=True)
class DimsePeer:
    """Where a PACS is and who we are to it.

    Attributes:
        title, host, port: its AE title and address.
        own_title: our AE title, which it must know.
        receive_at: address and port of our storage for C-MOVE; None takes C-GET.
        client_tls, server_tls: TLS (PS3.15 annex B) for asking, and for being sent to.
        timeout: seconds that the PACS may be silent.
    """

    title: str
    host: str
    port: int
    own_title: str = "MMMED"
    receive_at: tuple[str, int] | None = None
    client_tls: ssl.SSLContext | None = None
    server_tls: ssl.SSLContext | None = None
    timeout: float = 120.0

    def __str__(self) -> str:
        return f"{self.title}@{self.host}:{self.port}"


class _Silent(Refused):
    """The PACS gave no answer, or ended the association instead."""


class DimseArchive:
    """See `Archive`; with a storage that listens as long as it is open, if C-MOVE is used.

    Raises `DataError` if that storage cannot listen.
    """

    def __init__(self, peer: DimsePeer) -> None:
        self._peer = peer
        self._finder: Association | None = None
        self._inbox: Inbox | None = None
        self._storage = self._listen() if peer.receive_at is not None else None

    def close(self) -> None:
        if self._finder is not None and self._finder.is_established:
            self._finder.release()
        if self._storage is not None:
            self._storage.shutdown()

    def find(self, level: Level, keys: Mapping[str, str]) -> list[Dataset]:
        asked = Dataset()
        asked.QueryRetrieveLevel = level
        if not all(value.isascii() for value in keys.values()):
            asked.SpecificCharacterSet = "ISO_IR 192"
        for keyword, value in keys.items():
            setattr(asked, keyword, value)
        idle = self._finder is not None and self._finder.is_established
        try:
            return self._find(asked)
        except _Silent:
            if not idle:
                raise
            return self._find(asked)  # archives end idle associations, perhaps just now

    def _find(self, asked: Dataset) -> list[Dataset]:
        if self._finder is None or not self._finder.is_established:
            guard = Guard(self._peer.timeout, _MAX_ANSWER_BYTES)
            self._finder = self._associate([build_context(FIND)], guard)
        found: list[Dataset] = []
        try:
            for status, match in self._finder.send_c_find(asked, FIND):
                if self._code(status, "question") in (0xFF00, 0xFF01) and match is not None:
                    found.append(match)
                if len(found) > MAX_MATCHES:
                    raise Refused(f"the PACS answers one question with more than {MAX_MATCHES:,} matches")
        except BaseException:
            self._finder.abort()
            self._finder = None
            raise
        return found

    def retrieve(self, series: Series, missing: Collection[str], inbox: Inbox) -> None:
        self._inbox = inbox
        inbox.expect(series.study, series.uid, missing)
        asked = Dataset()
        asked.StudyInstanceUID, asked.SeriesInstanceUID = series.study, series.uid
        wanted = list(missing)
        if len(wanted) == len(series.objects):
            asked.QueryRetrieveLevel = "SERIES"
            self._request(asked, {series.objects[sop] for sop in wanted})
            return
        asked.QueryRetrieveLevel = "IMAGE"
        for start in range(0, len(wanted), _OBJECTS_A_REQUEST):
            some = wanted[start : start + _OBJECTS_A_REQUEST]
            asked.SOPInstanceUID = some
            self._request(asked, {series.objects[sop] for sop in some})

    def _request(self, asked: Dataset, classes: set[str]) -> None:
        guard = Guard(self._peer.timeout, _MAX_OBJECT_BYTES)
        if self._storage is not None:
            with self._association([build_context(MOVE)], guard) as association:
                for status, _ in association.send_c_move(asked, self._peer.own_title, MOVE):
                    self._code(status, "retrieval")
            return
        with self._association([build_context(GET), *_storage_contexts(classes)], guard) as association:
            for status, _ in association.send_c_get(asked, GET):
                self._code(status, "retrieval")

    def _code(self, status: Dataset, what: str) -> int:
        """The status of a response. Raises `Refused` if it is no success, warning or pending one."""
        if "Status" not in status:
            raise _Silent(
                f"the PACS went silent or ended the association during a {what}; does it allow that to "
                f"{self._peer.own_title!r}, our AE title?"
            )
        code = int(status.Status)
        if code in (0x0000, 0xFF00, 0xFF01, 0xB000):
            return code
        raise Refused(f"the PACS failed a {what} (status 0x{code:04X}: {_MEANINGS.get(code, 'see its log')})")

    # ------------------------------------------------------------ associations

    def _entity(self) -> AE:
        ae = AE(self._peer.own_title)
        ae.connection_timeout = min(10.0, self._peer.timeout)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = self._peer.timeout
        ae.maximum_pdu_size = MAX_PDU_BYTES
        return ae

    @contextmanager
    def _association(self, contexts: list[PresentationContext], guard: Guard) -> Iterator[Association]:
        association = self._associate(contexts, guard)
        try:
            yield association
        except BaseException:
            association.abort()
            raise
        if association.is_established:
            association.release()

    def _associate(self, contexts: list[PresentationContext], guard: Guard) -> Association:
        """An association whose first context was accepted; what follows the first are contexts for storage."""
        peer, service = self._peer, str(contexts[0].abstract_syntax)
        roles: list[Any] = [
            build_role(uid, scp_role=True) for uid in {c.abstract_syntax for c in contexts[1:]} if uid
        ]
        tls = (peer.client_tls, peer.host) if peer.client_tls is not None else None
        for _ in attempts():
            association = self._entity().associate(
                peer.host, peer.port, contexts, ae_title=peer.title, max_pdu=MAX_PDU_BYTES, ext_neg=roles, tls_args=tls,
                evt_handlers=[*guard.handlers(), (evt.EVT_C_STORE, self._store)],
            )  # fmt: skip
            if association.is_established and service in _services(association.accepted_contexts):
                return association
            if service in _services(association.rejected_contexts):
                association.abort()
                raise Unreachable(
                    f"{peer}: the PACS does not offer {_SERVICES[service]} to {peer.own_title}; have it allowed there, "
                    "or retrieve in another way"
                )
            if association.is_rejected:
                break  # asked again, it would answer the same
        raise Unreachable(_why_not(peer, association, guard))

    # ------------------------------------------------------------ receiving

    def _listen(self) -> Any:
        assert self._peer.receive_at is not None
        ae = self._entity()
        ae.require_called_aet = True
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(str(context.abstract_syntax), SYNTAXES)
        guard = Guard(self._peer.timeout, _MAX_OBJECT_BYTES)
        try:
            return ae.start_server(
                self._peer.receive_at, block=False, ssl_context=self._peer.server_tls,
                evt_handlers=[*guard.handlers(), (evt.EVT_C_STORE, self._store)],
            )  # fmt: skip
        except OSError as error:
            raise DataError(
                "{}:{}: cannot be listened on ({}); name an address of this machine and a free port".format(
                    *self._peer.receive_at, error.strerror or error
                )
            ) from error

    def _store(self, event: Any) -> int:
        """Answer C-STORE (PS3.4 table B.2-1): keep what was asked for, refuse all else."""
        inbox, sop = self._inbox, str(event.request.AffectedSOPInstanceUID or "")
        if inbox is None or not inbox.awaits(sop):
            return 0x0124
        try:
            inbox.put(sop, event.encoded_dataset())
        except OSError:
            return 0xA700
        except Exception:  # whatever the object holds; the fetch will find it missing
            return 0xC000
        return 0x0000


def _services(contexts: list[PresentationContext]) -> set[str]:
    return {str(context.abstract_syntax) for context in contexts}


def _storage_contexts(classes: set[str]) -> list[PresentationContext]:
    """A context for each class and encoding, so that objects come as they are stored.

    If some class is unknown, or there are too many, the common classes uncompressed.
    """
    if "" in classes or len(classes) * len(SYNTAXES) > _MAX_STORAGE_CONTEXTS:
        common = [context.abstract_syntax for context in StoragePresentationContexts]
        return [build_context(uid, _UNCOMPRESSED) for uid in common[:_MAX_STORAGE_CONTEXTS] if uid]
    return [build_context(uid, syntax) for uid in sorted(classes) for syntax in SYNTAXES]


def _why_not(peer: DimsePeer, association: Association, guard: Guard) -> str:
    if association.is_rejected:
        reason = getattr(association.acceptor.primitive, "reason_str", "no reason given")
        return (
            f"{peer}: the PACS rejected the association ({reason}); check its AE title {peer.title!r} and that it "
            f"knows ours, {peer.own_title!r}, at this machine's address"
        )
    tls = "over TLS: check --ca and --cert" if peer.client_tls else "without TLS: does it want dicoms://?"
    if not guard.opened:
        return f"{peer}: no connection ({tls}); check host, port and firewall, and that the PACS runs"
    return f"{peer}: the PACS ended the association before it began ({tls})"
