"""Bounds on what the other end of a DICOM association may do.

pynetdicom itself reads whatever length is declared, for however long it takes, and may wait out its whole timeout
for an answer after the connection was closed.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from pynetdicom import evt

MAX_PDU_BYTES = 1 << 18  # what we announce; association requests with many contexts are smaller, too
_LONGEST_MESSAGE = 1800.0  # seconds; who sends drop by drop is no archive


class Guard:
    """Ends associations that send an endless PDU or message, or one that never ends.

    Args:
        timeout: seconds that the other end may be silent.
        max_message_bytes: of one message.
        longest: seconds that one message may take.

    Attributes:
        opened: whether a connection was made at all.
    """

    def __init__(self, timeout: float, max_message_bytes: int, longest: float = _LONGEST_MESSAGE) -> None:
        self._timeout, self._max_bytes, self._longest = timeout, max_message_bytes, longest
        self._messages: WeakKeyDictionary[Any, tuple[int, float]] = WeakKeyDictionary()
        self._closed: WeakSet[Any] = WeakSet()
        self.opened = False

    def handlers(self) -> list[tuple[Any, Callable[[Any], Any]]]:
        """The event handlers that an association or a server takes as ``evt_handlers``."""
        return [
            (evt.EVT_CONN_OPEN, self._open),
            (evt.EVT_CONN_CLOSE, lambda event: self._closed.add(event.assoc)),
            (evt.EVT_ABORTED, lambda event: self._closed.add(event.assoc)),
            (evt.EVT_DATA_RECV, self._count),
            (evt.EVT_DIMSE_RECV, lambda event: self._messages.pop(event.assoc, None)),
        ]

    def _open(self, event: Any) -> None:
        self.opened = True
        association = event.assoc
        association.dul.socket.recv = lambda count: self._read(association.dul.socket.socket, count)
        association.dimse.get_msg = lambda block=False: self._message(association, block)

    def _read(self, connection: Any, count: int) -> bytearray:
        """Up to `count` bytes of a PDU from a connection; fewer if it is closed before."""
        if count > 2 * MAX_PDU_BYTES:
            raise OSError("a PDU longer than agreed")
        deadline = time.monotonic() + self._timeout
        data = bytearray()
        while len(data) < count:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            piece = connection.recv(count - len(data))
            if not piece:
                break
            data += piece
        connection.settimeout(self._timeout)
        return data

    def _message(self, association: Any, block: bool) -> tuple[int | None, Any]:
        """The next message of an association; (None, None) if there is none or the association has ended."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                return association.dimse.msg_queue.get(block, timeout=0.1)
            except queue.Empty:
                if not block or association in self._closed or time.monotonic() > deadline:
                    return None, None

    def _count(self, event: Any) -> None:
        total, since = self._messages.get(event.assoc, (0, time.monotonic()))
        total += len(event.data)
        self._messages[event.assoc] = (total, since)
        if total > self._max_bytes or time.monotonic() - since > self._longest:
            event.assoc.abort(block=False)
