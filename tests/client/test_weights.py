"""Sites whose frozen weights are not the server's refuse before they read a record or charge for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from flwr.app import Context, Message, MessageType, RecordDict
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from client.app import app
from client.refusal_log import refusals
from client.release import Refusal
from mmmed.config import RunConfig
from mmmed.errors import RunError, WeightsDiffer
from mmmed.models import build_model, check_frozen, frozen_digests, load_tokenizer, trainable_state
from mmmed.wire import unpack
from server.run import federate
from server.run_folder import RunFolder
from simulations.grid import InProcessGrid
from tests.client.requests import request

if TYPE_CHECKING:
    from tests.client.conftest import Hospital

Configured = Callable[..., RunConfig]


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A local text encoder."""
    torch.manual_seed(0)
    folder, tokenizer = tmp_path / "bert", load_tokenizer("tiny")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def frozen(configured: Configured, bert: Path) -> RunConfig:
    return configured(model={"text": str(bert), "fusion": {"kind": "linear"}, "trainable": "fusion-head"})


def move(folder: Path) -> None:
    """Change one weight, by little."""
    file = folder / "model.safetensors"
    state = load_file(file)
    state["encoder.layer.0.output.dense.weight"][0, 0] += 1e-4
    save_file(state, file, metadata={"format": "pt"})


def node(tmp_path: Path, **own: Any) -> Context:
    own = own or {"partition-id": 0, "num-partitions": 4, "state-dir": str(tmp_path / "state")}
    return Context(run_id=1, node_id=1, node_config=own, state=RecordDict(), run_config={})


def code(reply: Message) -> str | None:
    return reply.error.reason if reply.has_error() else None


def test_a_site_with_other_weights_refuses_before_it_reads_a_record(
    tmp_path: Path, frozen: RunConfig, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {kind: request(frozen, kind) for kind in (MessageType.TRAIN, MessageType.EVALUATE)}
    move(bert)

    def read(*_: Any) -> None:
        raise AssertionError("a record was read")

    with monkeypatch.context() as patched:
        patched.setattr("client.simulated.simulated_manifest", read)
        found = {code(app(message, node(tmp_path))) for message in asked.values()}
    assert found == {Refusal.WEIGHTS}, refusals(tmp_path / "state")
    assert not (tmp_path / "state" / "ledger.db").exists()
    reason = refusals(tmp_path / "state")[0]
    assert "text" in reason and str(bert) in reason and "at the server" in reason and "pretrained" in reason
    assert "tokenizer" not in reason and "image" not in reason
    reply = app(request(frozen), node(tmp_path))  # asked by a server that has the same
    assert code(reply) is None
    update = unpack(reply.content["arrays"]["update"].data)
    assert set(update) == {"head.weight", "head.bias"}  # only what is trained travels


def test_a_hospital_refuses_it_too_and_is_charged_nothing(
    frozen: RunConfig, bert: Path, hospital: Hospital
) -> None:
    hospital.sign(run__models=[f"resnet10+{bert}"], run__trainable=["fusion-head"])
    asked = request(frozen)
    move(bert)
    own = {"site-dir": str(hospital.path)}
    hospital.write_site(dataset="not-there")  # weights first, then data
    assert code(app(asked, node(hospital.path, **own))) == Refusal.WEIGHTS
    from client.site_folder import SiteFolder

    with SiteFolder(hospital.path).ledger(SiteFolder(hospital.path).policy()) as ledger:
        assert not ledger.plans()


def test_another_tokenizer_is_told(frozen: RunConfig, bert: Path, tmp_path: Path) -> None:
    asked = request(frozen)
    load_tokenizer.cache_clear()
    for file in bert.glob("tokenizer.json"):
        stored = json.loads(file.read_text())
        words = stored["model"]["vocab"]
        words["left"], words["right"] = words["right"], words["left"]
        file.write_text(json.dumps(stored))
    assert code(app(asked, node(tmp_path))) == Refusal.WEIGHTS
    assert "tokenizer" in refusals(tmp_path / "state")[0]
    load_tokenizer.cache_clear()


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}"])
def test_a_request_without_the_digests_is_refused(
    tmp_path: Path, frozen: RunConfig, text: str | None
) -> None:
    asked = request(frozen)
    if text is None:
        del asked.content["config"]["frozen-parts"]
    else:
        asked.content["config"]["frozen-parts"] = text
    assert code(app(asked, node(tmp_path))) == (Refusal.WEIGHTS if text == "{}" else Refusal.REQUEST)
    assert not (tmp_path / "state" / "ledger.db").exists()


@pytest.mark.parametrize("trainable", ["full", "norm-bias", "lora", "fusion-head"])
def test_what_is_trained_is_in_no_digest_and_everything_else_is(
    configured: Configured, trainable: str
) -> None:
    config = configured(model={"trainable": trainable})
    model = build_model(config)
    before = frozen_digests(model, config)
    assert before == frozen_digests(build_model(config), config)
    for value in trainable_state(model).values():
        value.add_(1)
    assert frozen_digests(model, config) == before
    unsent = {n: p for n, p in model.named_parameters() if not p.requires_grad}
    assert bool(unsent) == (trainable != "full")
    for name, value in unsent.items():
        value.data.view(-1)[0] += 1
        different = frozen_digests(model, config)
        value.data.view(-1)[0] -= 1
        with pytest.raises(WeightsDiffer, match=name.split(".")[0]):
            check_frozen(different, before, config)


def test_a_run_learns_nothing_from_sites_with_other_weights_and_keeps_to_its_own(
    tmp_path: Path, frozen: RunConfig, bert: Path
) -> None:
    """Server and sites read the same folder at different times: the sites build after it has changed."""
    run, model = tmp_path / "run", build_model(frozen)
    nodes = [{"state-dir": str(tmp_path / f"site-{i}")} for i in range(4)]
    move(bert)
    with (
        RunFolder.create(run, frozen) as folder,
        InProcessGrid("client.app:app", nodes) as grid,
    ):
        federate(grid, folder, model)
        assert [one["changed"] for one in folder.rounds()] == [False] * frozen.federation.rounds
        refused = {line["refused"] for one in folder.rounds() for line in one["train"]}
    assert refused == {"weights-differ"}
    with (
        RunFolder.open(run) as folder,
        InProcessGrid("client.app:app", nodes) as grid,
        pytest.raises(RunError, match=r"frozen\.json.*text"),
    ):
        federate(grid, folder, build_model(frozen))
