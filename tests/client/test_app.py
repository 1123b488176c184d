from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, MessageType, RecordDict
from safetensors.torch import load_file

from client.app import app
from client.refusal_log import refusals
from client.release import Refusal
from mmmed.config import RunConfig
from mmmed.config.sources import to_json
from mmmed.models import build_model, trainable_state
from mmmed.wire import pack, unpack
from privacy.report import read_statement
from tests.client.requests import request
from tests.standin import payload

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
        "privacy.receipt",
    }
    stated = read_statement(json.loads(str(reply.content["site"]["privacy.statement"])))
    assert stated.site == reply.content["site"]["name"]
    assert stated.steps == reply.content["site"]["privacy.steps"]
    assert stated.epsilon == reply.content["site"]["privacy.planned_epsilon"]
    model = trainable_state(build_model(config))
    assert set(reply.content["arrays"]) == {"update"}
    update = unpack(reply.content["arrays"]["update"].data, {n: tuple(v.shape) for n, v in model.items()})
    assert all(value.any() for value in update.values())  # noise, if nothing else


def test_a_simulated_site_shows_its_metrics(tmp_path: Path, configured: Configured) -> None:
    reply = app(request(configured(), MessageType.EVALUATE), node(tmp_path))
    assert set(reply.content["metrics"]) == {
        "weight",
        "auroc",
        "auprc",
        "f1",
        "brier",
        "ece",
        "loss",
        "calibration",
    }


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


def test_a_request_whose_tensors_are_no_payload_is_refused(tmp_path: Path, configured: Configured) -> None:
    for bad in (b"", pickle.dumps({"w": 1}), b"\xff" * 40):
        asked = request(configured())
        asked.content["arrays"]["model"] = payload(bad)
        assert app(asked, node(tmp_path)).error.reason == Refusal.REQUEST


def test_the_same_round_asked_again_sends_the_same_bytes_and_rounding_is_made_up_for(
    tmp_path: Path, configured: Configured
) -> None:
    config = configured(federation={"wire": "int8", "rounds": 2})
    context = node(tmp_path)
    first = app(request(config), context)
    again = app(request(config), context)
    sent = [reply.content["arrays"]["update"].data for reply in (first, again)]
    assert sent[0] == sent[1]
    (rest,) = (tmp_path / "state" / "carried").rglob("round-00001.safetensors")
    left_over = load_file(rest)
    released = next((tmp_path / "state" / "released").iterdir())
    model = trainable_state(build_model(config))
    for name, value in load_file(released).items():
        wanted = value - model[name]
        assert torch.allclose(unpack(sent[0])[name] + left_over[name], wanted, atol=1e-6)
    second = app(request(config, **{"server-round": 2}), context)
    assert not second.has_error()
    files = sorted((tmp_path / "state" / "released").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    (later,) = (tmp_path / "state" / "carried").rglob("round-00002.safetensors")
    for name, value in load_file(files[-1]).items():
        wanted = value - model[name] + left_over[name]
        found = unpack(second.content["arrays"]["update"].data)[name] + load_file(later)[name]
        assert torch.allclose(found, wanted, atol=1e-6)


def test_scaffold_keeps_the_sites_control_and_tells_its_steps(tmp_path: Path, configured: Configured) -> None:
    training = {"optimizer": "sgd", "learning_rate": 0.1}
    config = configured(federation={"strategy": {"kind": "scaffold"}}, training=training)
    reply = app(request(config), node(tmp_path))
    steps = reply.content["metrics"]["local-steps"]
    assert steps == reply.content["site"]["privacy.steps"]
    (file,) = (tmp_path / "state" / "carried").rglob("round-00001.safetensors")
    update = unpack(reply.content["arrays"]["update"].data)
    for name, own in load_file(
        file
    ).items():  # c = c_i = 0: the control is the mean gradient that was released
        assert torch.allclose(own, -update[name] / (steps * 0.1), atol=1e-6)


@pytest.mark.parametrize("control", [None, {}, {"more": torch.zeros(2)}])
def test_what_the_strategy_needs_is_checked_before_anything_is_charged(
    tmp_path: Path, configured: Configured, control: dict[str, torch.Tensor] | None
) -> None:
    training = {"optimizer": "sgd", "learning_rate": 0.1}
    asked = request(configured(federation={"strategy": {"kind": "scaffold"}}, training=training))
    del asked.content["arrays"]["control"]
    if control is not None:
        asked.content["arrays"]["control"] = payload(pack(control, "float32"))
    assert app(asked, node(tmp_path)).error.reason == Refusal.REQUEST
    assert not (tmp_path / "state" / "ledger.db").exists()
