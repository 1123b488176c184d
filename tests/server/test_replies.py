"""Reading a reply."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict

from mmmed.wire import pack
from server.replies import read_reply
from simulations.grid import InProcessGrid


def test_a_reply_that_was_read_is_freed_at_once() -> None:
    """Else the replies of many sites would lie in memory until the garbage collector comes."""
    with InProcessGrid("client.app:app", [{}]):  # messages know their sender from a grid
        data = pack({"layer": torch.arange(6.0).reshape(2, 3)}, "float32")
        content = RecordDict(
            {
                "arrays": ArrayRecord({"update": Array("uint8", (len(data),), "safetensors", data)}),
                "metrics": MetricRecord({"weight": 1.0}),
                "site": ConfigRecord({"name": "north"}),
            }
        )
        request = Message(RecordDict(), 1001, MessageType.TRAIN)
        reply = Message(content, reply_to=request)
        alive = weakref.ref(reply.content["arrays"]["update"])
        gc.disable()
        try:
            answer = read_reply(request, reply, 0.0, "train", {"layer": (2, 3)})
            del reply, content
            assert alive() is None
        finally:
            gc.enable()
    assert answer.refused is None and answer.bytes_up == len(data)
    assert np.array_equal(answer.arrays["layer"], [[0, 1, 2], [3, 4, 5]])
