from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, MessageType, RecordDict

from client.app import app
from client.log import refusals
from client.release import Refusal
from mmmed.config import RunConfig
from mmmed.config.sources import to_json
from mmmed.models import build_model, trainable_state
from privacy.report import read_statement
from tests.client.requests import request

Configured = Callable[..., RunConfig]


def node(tmp_path: Path, **changes: Any) -> Context:
    own = {"partition-id": 0, "num-partitions": 4, "state-dir": str(tmp_path / "state")} | changes
    return Context(run_id=1, node_id=1, node_config=own, state=RecordDict(), run_config={})


def everything_in(reply: Message) -> str:
    if reply.has_error():
        return reply.error.reason
    parts = [json.dumps(dict(r)) for r in reply.content.config_records.values()]
    return " ".join([*parts, *(json.dumps(dict(r)) for r in reply.content.metric_records.values())])


def test_a_training_reply_holds_the_update_and_public_facts_only(
    tmp_path: Path, configured: Configured
) -> None:
    config = configured()
    reply = app(request(config), node(tmp_path))
    assert set(reply.content) == {"arrays", "metrics", "site"}
    assert dict(reply.content["metrics"]) == {"weight": 1.0}
    assert set(reply.content["site"]) == {
        "name",
        *(
            f"privacy.{key}"
            for key in ("epsilon", "planned_epsilon", "delta", "noise_multiplier", "sampling_rate")
        ),
        "privacy.steps",
        "privacy.max_grad_norm",
        "privacy.statement",
    }
    stated = read_statement(json.loads(str(reply.content["site"]["privacy.statement"])))
    assert stated.site == reply.content["site"]["name"]
    assert stated.steps == reply.content["site"]["privacy.steps"]
    assert stated.epsilon == reply.content["site"]["privacy.planned_epsilon"]
    model = trainable_state(build_model(config))
    arrays = {name: array.numpy() for name, array in reply.content["arrays"].items()}
    assert {n: a.shape for n, a in arrays.items()} == {n: tuple(v.shape) for n, v in model.items()}
    assert all(a.dtype == np.float32 and np.isfinite(a).all() for a in arrays.values())


def test_a_simulated_site_shows_its_metrics(tmp_path: Path, configured: Configured) -> None:
    reply = app(request(configured(), MessageType.EVALUATE), node(tmp_path))
    assert set(reply.content["metrics"]) == {"weight", "auroc", "loss"}


@pytest.mark.parametrize(
    ("sections", "own", "code"),
    [
        ({"privacy": {"delta": 0.5}}, {}, Refusal.PLAN),
        ({"training": {"batch_size": 5000}}, {}, Refusal.PLAN),
        ({"task": {"label": "no_such"}}, {}, Refusal.DATA),
        ({"data": {"source": "/nowhere"}}, {}, Refusal.DATA),
        ({}, {"num-partitions": 3}, Refusal.DATA),
        ({}, {"partition-id": "zero"}, Refusal.DATA),
        ({"model": {"text": "/no/model"}}, {}, Refusal.MODEL),
    ],
)
def test_what_the_site_cannot_do_it_refuses_with_a_code(
    tmp_path: Path, configured: Configured, sections: dict[str, Any], own: dict[str, Any], code: Refusal
) -> None:
    asked = to_json(configured(**sections))
    for kind in (MessageType.TRAIN, MessageType.EVALUATE):
        reply = app(request(configured(), kind, **{"run-config": asked}), node(tmp_path, **own))
        if kind == MessageType.EVALUATE and code == Refusal.PLAN:
            continue  # evaluating spends nothing at a simulated site
        assert reply.has_error() and reply.error.reason == code


@pytest.mark.parametrize("text", ["", "{", '{"privacy.sigma": 0}', '{"privacy.target_epsilon": "lots"}'])
def test_a_malformed_request_is_refused(tmp_path: Path, configured: Configured, text: str) -> None:
    reply = app(request(configured(), **{"run-config": text}), node(tmp_path))
    assert reply.has_error() and reply.error.reason == Refusal.REQUEST


def test_why_a_site_refused_stays_in_its_own_log(
    tmp_path: Path, configured: Configured, hospitals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("SMITH^JOHN\nleft lung")

    monkeypatch.setattr("client.app.train_round", fail)
    reply = app(request(configured()), node(tmp_path))
    assert everything_in(reply) == "failed"
    app(request(configured(), **{"run-config": "{"}), node(tmp_path))
    first, second = refusals(tmp_path / "state")
    assert "failed ZeroDivisionError: SMITH^JOHN left lung" in first
    assert "request-invalid ConfigError" in second


def test_a_released_parameter_is_float32_on_the_cpu(configured: Configured) -> None:
    from client.release import training_reply

    reply = training_reply(request(configured()), "a", {"w": torch.ones(2, dtype=torch.float64)}, None)
    assert reply.content["arrays"]["w"].numpy().dtype == np.float32  # type: ignore[index, call-overload]
    assert dict(reply.content["site"]) == {"name": "a"}  # type: ignore[arg-type]
