"""What comes back from sites: gathered one at a time, checked, and reduced to what the server may use.

A reply is either taken whole or refused with a short code. Free text from a site is never kept or logged: an
exception's message may hold a name.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from mmmed.config.schema import Scalar
from server.checkpoint import Arrays

Record = TypeVar("Record", ArrayRecord, ConfigRecord, MetricRecord)

_CODE = re.compile(r"[a-z][a-z0-9-]{0,39}")
_NAME = re.compile(r"[^\W_][\w .-]{0,63}")
_FLOWER_CODES = {
    ErrorCode.MESSAGE_UNAVAILABLE: "expired",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "expired",
    ErrorCode.NODE_UNAVAILABLE: "node-unavailable",
    ErrorCode.LOAD_CLIENT_APP_EXCEPTION: "app-unavailable",
    ErrorCode.CLIENT_APP_CRASHED: "crashed",
}


class Refused(Exception):
    """A reply that cannot be used; its text is a code."""


@dataclass(frozen=True)
class Answer:
    """What one site sent back, or why nothing of it is used (``refused``, a code)."""

    node: int
    seconds: float
    site: str | None = None
    refused: str | None = None
    weight: float = 0.0
    arrays: Arrays = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    released: dict[str, Scalar] = field(default_factory=dict)

    def unless_name_in(self, seen: set[str]) -> Answer:
        """This answer, or its refusal if another node used the site's name in the same phase; notes the name."""
        if self.site in seen:
            return Answer(self.node, self.seconds, refused="name-taken")
        if self.site is not None:
            seen.add(self.site)
        return self


def gather(
    grid: Grid, messages: Sequence[Message], timeout: float
) -> Iterator[tuple[Message, Message | None, float]]:
    """Send messages and yield (request, reply, seconds) as replies arrive, each reply then forgotten.

    A request that has no reply after ``timeout`` seconds is yielded with None. Replies are matched by message id:
    an error reply for a lost node does not carry the node's own id.
    """
    started = time.monotonic()
    accepted = {str(i) for i in grid.push_messages(messages) if i}
    waiting: dict[str, Message] = {}
    for message in messages:
        if message.metadata.message_id in accepted:
            waiting[message.metadata.message_id] = message
        else:
            yield message, None, 0.0
    while waiting and time.monotonic() - started < timeout:
        replies = list(grid.pull_messages(list(waiting)))
        for reply in replies:
            request = waiting.pop(reply.metadata.reply_to_message_id, None)
            if request is not None:
                yield request, reply, time.monotonic() - started
        if not replies and waiting:
            time.sleep(pull_interval(grid))
    for request in waiting.values():
        yield request, None, time.monotonic() - started


def pull_interval(grid: Grid) -> float:
    """Seconds between two looks at a grid: its own ``pull_interval`` if it has one, else 1."""
    return float(getattr(grid, "pull_interval", 1.0))


def read_reply(
    request: Message, reply: Message | None, seconds: float, like: Mapping[str, np.ndarray]
) -> Answer:
    """Check a reply. ``like`` is the model that was sent for a train reply, empty for an evaluate reply.

    Codes of refusal: ``no-reply``; a site's own code, or ``failed`` if it sent anything but a code; ``expired``,
    ``node-unavailable``, ``app-unavailable``, ``crashed`` (Flower's); ``bad-record``, ``bad-name``, ``bad-weight``,
    ``keys-differ``, ``shape-differs``, ``dtype-differs``, ``not-finite`` (the reply's content).
    """
    node = request.metadata.dst_node_id
    if reply is None:
        return Answer(node, seconds, refused="no-reply")
    if reply.has_error():
        return Answer(node, seconds, refused=_error_code(reply))
    site = None
    try:
        record = reply.content
        site = _site_name(record)
        weight, metrics = _metrics(record)
        arrays = _arrays(record, like) if like else {}
        return Answer(node, seconds, site, None, weight, arrays, metrics, _released(record))
    except Refused as refusal:
        return Answer(node, seconds, site, str(refusal))
    except Exception:  # whatever a site sends costs only that site
        return Answer(node, seconds, site, "bad-record")


def _error_code(reply: Message) -> str:
    reason = reply.error.reason or ""
    if _CODE.fullmatch(reason):
        return reason
    return _FLOWER_CODES.get(reply.error.code, "failed")


def _site_name(record: RecordDict) -> str:
    name = _part(record, "site", ConfigRecord).get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Refused("bad-name")
    return name


def _metrics(record: RecordDict) -> tuple[float, dict[str, float]]:
    values = dict(_part(record, "metrics", MetricRecord))
    weight = values.pop("weight", None)
    if (
        not isinstance(weight, int | float) or not 0 < weight <= 1
    ):  # a site may say less than others, not more
        raise Refused("bad-weight")
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


def _arrays(record: RecordDict, like: Mapping[str, np.ndarray]) -> Arrays:
    sent = _part(record, "arrays", ArrayRecord)
    if set(sent) != set(like):
        raise Refused("keys-differ")
    arrays: Arrays = {}
    for key, expected in like.items():
        value = sent[key].numpy()
        if value.shape != expected.shape:
            raise Refused("shape-differs")
        if value.dtype != expected.dtype:
            raise Refused("dtype-differs")
        if not np.isfinite(value).all():
            raise Refused("not-finite")
        arrays[key] = value
    return arrays


def _part(record: RecordDict, key: str, kind: type[Record]) -> Record:
    value = record.get(key)
    if not isinstance(value, kind):
        raise Refused("bad-record")
    return value
