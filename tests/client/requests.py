"""Messages as the server sends them."""

from __future__ import annotations

from typing import Any

import torch
from flwr.app import Message, MessageType
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.task_identity import TaskIdentity

from mmmed.config import RunConfig
from mmmed.federation.protocol import Request
from mmmed.models import build_model, frozen_digests, trainable_state
from mmmed.wire import pack

TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, SUPERLINK_NODE_ID  # who sends


def request(config: RunConfig, kind: str = MessageType.TRAIN, moved: float = 0.0, **changes: Any) -> Message:
    """A request of round 1 of run "r" with parameters moved; `changes` to the fields of its config record."""
    try:
        model = build_model(config)
        state, frozen = trainable_state(model), frozen_digests(model, config)
        tensors = {"model": {name: value.detach() + moved for name, value in state.items()}}
    except Exception:  # what the server asks for may not exist here: the site must judge it first
        tensors, frozen = {}, {}
    if config.federation.strategy.kind == "scaffold":
        tensors["control"] = {name: torch.zeros_like(value) for name, value in tensors["model"].items()}
    packed = {name: pack(value, "float32") for name, value in tensors.items()}
    content = Request("r", 1, config, frozen, packed).to_record()
    content["config"].update(changes)
    return Message(content, dst_node_id=1, message_type=kind)
