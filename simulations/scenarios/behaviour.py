"""The ClientApp of simulated sites that a scenario lets be absent, or malicious.

It is `client.app` with another end: an absent site's messages are answered as a grid answers for a node that says
nothing until they expire, without the wait; a malicious site's reply is the real one, read and written by the protocol,
with another update in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from flwr.app import Context, Error, Message, MessageType
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from client.app import app as honest
from mmmed.federation.protocol import Refusal, Request, TrainReply
from mmmed.wire import pack, unpack
from simulations.scenarios.table import ABSENT, MALICE, STRENGTH

Update = Mapping[str, torch.Tensor]


class _Site(ClientApp):
    def __call__(self, message: Message, context: Context) -> Message:
        node = context.node_config
        request = Request.read(message.content)
        if request.round in json.loads(str(node.get(ABSENT, "[]"))):
            return Message(Error(ErrorCode.MESSAGE_UNAVAILABLE, Refusal.EXPIRED), reply_to=message)
        reply = honest(message, context)
        if MALICE not in node or message.metadata.message_type != MessageType.TRAIN or reply.has_error():
            return reply
        told = TrainReply.read(reply.content)
        seed = hash((request.config.training.seed, request.round, context.node_id))
        update = otherwise(str(node[MALICE]), float(node[STRENGTH]), unpack(told.update), seed)
        packed = pack(update, request.config.federation.wire)
        return Message(replace(told, update=packed).to_record(), reply_to=message)


def otherwise(kind: str, strength: float, update: Update, seed: int) -> dict[str, torch.Tensor]:
    """What a malicious site sends in the place of its update.

    Args:
        kind, strength: of `simulations.scenarios.Malicious`.
        update: the change of each trainable parameter, by name.
        seed: of a free rider's noise.
    """
    if kind != "free-rider":
        factor = -strength if kind == "sign-flip" else strength
        return {name: factor * value for name, value in update.items()}
    generator = torch.Generator().manual_seed(seed & (2**63 - 1))
    noise = {name: torch.randn(value.shape, generator=generator) for name, value in update.items()}
    scale = strength * _norm(update) / max(_norm(noise), 1e-12)
    return {name: scale * value for name, value in noise.items()}


def _norm(tensors: Update) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in tensors.values()))


app = _Site()
