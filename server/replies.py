"""What comes back from sites: checked, and reduced to what the server may use.

A reply is either taken whole or refused with a short code. Free text from a site is never kept or logged: an
exception's message may hold a name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode

from mmmed.config.schema import Scalar
from mmmed.errors import WireError
from mmmed.federation.protocol import Refusal
from mmmed.wire import unpack
from server.checkpoint import Arrays

Record = TypeVar("Record", ArrayRecord, ConfigRecord, MetricRecord)

_CODE = re.compile(r"[a-z][a-z0-9-]{0,39}")
_NAME = re.compile(r"[^\W_][\w .-]{0,63}")
_FLOWER_CODES = {
    ErrorCode.MESSAGE_UNAVAILABLE: Refusal.EXPIRED,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: Refusal.EXPIRED,
    ErrorCode.NODE_UNAVAILABLE: Refusal.OFFLINE,
    ErrorCode.LOAD_CLIENT_APP_EXCEPTION: Refusal.NO_APP,
    ErrorCode.CLIENT_APP_CRASHED: Refusal.CRASHED,
}


class Refused(Exception):
    """A reply that cannot be used; its text is a code."""


@dataclass(frozen=True)
class Answer:
    """What one site sent back, or why nothing of its update is used (``refused``, a code).

    ``arrays`` is its update by name, float32; ``bytes_down`` and ``bytes_up`` count the tensors that crossed the
    network for it. What a site released is kept even if its update is refused: its privacy is spent all the same.
    """

    node: int
    seconds: float
    site: str | None = None
    refused: str | None = None
    weight: float = 0.0
    bytes_down: int = 0
    bytes_up: int = 0
    arrays: Arrays = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    released: dict[str, Scalar] = field(default_factory=dict)
    tables: np.ndarray | None = None

    def unless_name_in(self, seen: set[str]) -> Answer:
        """This answer, or its refusal if another node used the site's name in the same phase; notes the name."""
        if self.site in seen:
            taken = Answer(self.node, self.seconds, refused=Refusal.NAME_TAKEN)
            return replace(taken, bytes_down=self.bytes_down, bytes_up=self.bytes_up)
        if self.site is not None:
            seen.add(self.site)
        return self


def read_reply(
    request: Message, reply: Message | None, seconds: float, like: Mapping[str, tuple[int, ...]]
) -> Answer:
    """Check a reply. ``like`` is the shape of each trained tensor for a train reply, empty for an evaluate reply.

    Codes of refusal: ``no-reply``; a site's own code, or ``failed`` if it sent anything but a code; ``expired``,
    ``node-unavailable``, ``app-unavailable``, ``crashed`` (Flower's); ``bad-record``, ``bad-name``, ``bad-weight``
    and the codes of `mmmed.wire.unpack` (the reply's content). An evaluate reply may hold noised tables of
    `privacy.metrics`, any three-dimensional float64 array here.
    """
    answer = Answer(request.metadata.dst_node_id, seconds)
    if reply is None:
        return replace(answer, refused=Refusal.NO_REPLY)
    if reply.has_error():
        return replace(answer, refused=error_code(reply))
    try:
        record = reply.content
        answer = replace(answer, bytes_up=tensor_bytes(record), site=_site_name(record))
        answer = replace(answer, released=_released(record))
        weight, metrics = _metrics(record)
        arrays = _arrays(record, like) if like else {}
        return replace(answer, weight=weight, metrics=metrics, arrays=arrays, tables=_tables(record))
    except Refused as refusal:
        return replace(answer, refused=str(refusal))
    except WireError as error:
        return replace(answer, refused=error.code)
    except Exception:  # whatever a site sends costs only that site
        return replace(answer, refused=Refusal.BAD_RECORD)


def error_code(reply: Message) -> str:
    """A site's own code if it sent one, else what Flower's stands for; any other text is dropped."""
    reason = reply.error.reason or ""
    if _CODE.fullmatch(reason):
        return reason
    return _FLOWER_CODES.get(reply.error.code, Refusal.FAILED)


def _site_name(record: RecordDict) -> str:
    name = _part(record, "site", ConfigRecord).get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Refused(Refusal.BAD_NAME)
    return name


def _metrics(record: RecordDict) -> tuple[float, dict[str, float]]:
    values = dict(_part(record, "metrics", MetricRecord))
    weight = values.pop("weight", None)
    if (
        not isinstance(weight, int | float) or not 0 < weight <= 1
    ):  # a site may say less than others, not more
        raise Refused(Refusal.BAD_WEIGHT)
    scalars = {key: float(value) for key, value in values.items() if isinstance(value, int | float)}
    return float(weight), {key: value for key, value in scalars.items() if math.isfinite(value)}


def _released(record: RecordDict) -> dict[str, Scalar]:
    values = dict(_part(record, "site", ConfigRecord))
    return {
        key: value
        for key, value in values.items()
        if key != "name"
        and (isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)))
    }


def _arrays(record: RecordDict, like: Mapping[str, tuple[int, ...]]) -> Arrays:
    payload = _part(record, "arrays", ArrayRecord).get("update")
    if payload is None:
        raise Refused(Refusal.BAD_RECORD)
    return {key: value.numpy() for key, value in unpack(payload.data, like).items()}


def tensor_bytes(record: RecordDict) -> int:
    """How many bytes of tensors a message's content holds."""
    # not by `record.array_records`: it ties the record into a cycle, and its memory waits for the garbage collector
    parts = [part for part in record.values() if isinstance(part, ArrayRecord)]
    return sum(len(array.data) for arrays in parts for array in arrays.values())


def _tables(record: RecordDict) -> np.ndarray | None:
    if "tables" not in record:
        return None
    value = _part(record, "tables", ArrayRecord)["tables"].numpy()
    if value.ndim != 3:
        raise Refused(Refusal.SHAPE_DIFFERS)
    if value.dtype != np.float64:
        raise Refused(Refusal.DTYPE_DIFFERS)
    if not np.isfinite(value).all():
        raise Refused(Refusal.NOT_FINITE)
    return value


def _part(record: RecordDict, key: str, kind: type[Record]) -> Record:
    value = record.get(key)
    if not isinstance(value, kind):
        raise Refused(Refusal.BAD_RECORD)
    return value
