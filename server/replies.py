"""What comes back from sites: checked, and reduced to what the server may use.

A reply is either taken whole or refused with a short code. Free text from a site is never kept or logged: an
exception's message may hold a name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from flwr.app import Message

from mmmed.config.schema import Scalar
from mmmed.errors import WireError
from mmmed.federation.protocol import (
    EvaluateReply,
    JoinReply,
    Phase,
    Refusal,
    Refused,
    TrainReply,
    code_of,
    name_of,
    stated_of,
    tensor_bytes,
)
from mmmed.wire import unpack
from server.checkpoint import Arrays

TABLES = "tables"  # noised counts of an evaluation
_HEADER = 1000  # bytes a tensor, and as many for all, of a payload beside its values; far more than there are


@dataclass(frozen=True)
class Answer:
    """What one site sent back, or why nothing of its update is used (``refused``, a code).

    ``arrays`` is its update by name, float32, ``words`` its masked part of a sum, ``joined`` who it is; ``bytes_down``
    and ``bytes_up`` count the tensors that crossed the network for it. What a site released is kept even if its update
    is refused: its privacy is spent all the same.
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
    histograms: np.ndarray | None = None
    words: bytes = b""
    joined: JoinReply | None = None

    def under_no_name(self) -> Answer:
        """Its refusal, since its name is not its own: nothing of it is booked on anybody."""
        taken = Answer(self.node, self.seconds, refused=Refusal.NAME_TAKEN)
        return replace(taken, bytes_down=self.bytes_down, bytes_up=self.bytes_up)


def read_reply(
    request: Message, reply: Message | None, seconds: float, phase: Phase, like: Mapping[str, tuple[int, ...]]
) -> Answer:
    """Check a reply. Nothing that a site sends raises: it becomes a refusal.

    Codes of refusal: ``no-reply``; a site's own code, or ``failed`` if it sent anything but a code; ``expired``,
    ``node-unavailable``, ``app-unavailable``, ``crashed`` (Flower's); ``bad-record``, ``bad-name``, ``bad-weight``
    and the codes of `mmmed.wire.unpack` (the reply's content).

    Args:
        request: the message that was sent.
        reply: what came back; None if nothing did.
        seconds: from the request to the reply.
        phase: what was asked.
        like: the shape of each tensor that the reply may hold: of a train reply's update, where empty means masked
            words, or `TABLES` of an evaluation.
    """
    answer = Answer(request.metadata.dst_node_id, seconds)
    if reply is None:
        return replace(answer, refused=Refusal.NO_REPLY)
    if reply.has_error():
        return replace(answer, refused=code_of(reply))
    record = reply.content
    try:
        answer = replace(answer, bytes_up=tensor_bytes(record), site=name_of(record))
        answer = replace(answer, released=stated_of(record))
        if phase == "join":
            return replace(answer, joined=JoinReply.read(record))
        if phase == "evaluate":
            evaluated = EvaluateReply.read(record)
            if evaluated.histograms is not None and evaluated.histograms.shape != like.get(TABLES):
                return replace(answer, refused=Refusal.SHAPE_DIFFERS)
            return replace(answer, metrics=dict(evaluated.metrics), histograms=evaluated.histograms)
        trained = TrainReply.read(record)
        if not like:
            return replace(answer, words=trained.update)
        if len(trained.update) > _most_bytes(like):
            return replace(answer, refused=Refusal.OVER_BOUNDS)
        arrays = {key: value.numpy() for key, value in unpack(trained.update, like).items()}
        return replace(answer, weight=trained.weight, metrics=dict(trained.metrics), arrays=arrays)
    except Refused as refusal:
        return replace(answer, refused=str(refusal))
    except WireError as error:
        return replace(answer, refused=error.code)
    except Exception:  # whatever a site sends costs only that site
        return replace(answer, refused=Refusal.BAD_RECORD)


def _most_bytes(like: Mapping[str, tuple[int, ...]]) -> int:
    """The most that an update of such tensors takes, whatever its encoding: no more is decoded."""
    names = sum(len(name) for name in like)
    return sum(4 * math.prod(shape) for shape in like.values()) + 2 * names + _HEADER * (2 * len(like) + 1)
