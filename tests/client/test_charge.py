"""What can be known without a patient is refused before the charge; after it, everything fails alike."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from flwr.app import Context, Message, MessageType, RecordDict
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

import client.evaluation
import client.training
from client.app import app
from client.mechanism import private_step
from client.refusal_log import refusals
from client.release import Refusal
from client.site_folder import SiteFolder
from client.trial import try_run
from mmmed.config import RunConfig
from mmmed.data.features import FeatureFile
from mmmed.data.loader import PatientBatches
from mmmed.data.pixel_cache import CachedRows
from mmmed.errors import ConfigError, DataError, MmmedError, ModelError, WireError
from mmmed.models import build_model, load_tokenizer
from mmmed.training import make_optimizer
from privacy.errors import BudgetExceeded, NoiseError, PlanError, PolicyRefusal, PrivacyError
from simulations.simulate import start_run
from tests.client.requests import request

if TYPE_CHECKING:
    from simulations.loopback.hospital import Hospital

Configured = Callable[..., RunConfig]
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def text_folder(folder: Path, *, rows: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """A local text encoder and its tokenizer, its embedding short of so many rows."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer("tiny")
    model = BertModel(BertConfig(vocab_size=len(tokenizer) - rows, max_position_embeddings=32, **SIZES))
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def damaged(folder: Path) -> Path:
    """The same with one weight that is no number."""
    file = text_folder(folder) / "model.safetensors"
    state = load_file(file)
    state["encoder.layer.0.output.dense.bias"][0] = float("nan")
    save_file(state, file, metadata={"format": "pt"})
    return folder


UNUSABLE: dict[str, tuple[Callable[[Path], dict[str, Any]], str, str]] = {
    "vocabulary": (
        lambda folder: {"model": {"text": str(text_folder(folder, rows=3))}},
        Refusal.MODEL,
        "its embedding has",
    ),
    "not a number": (
        lambda folder: {"model": {"text": str(damaged(folder)), "trainable": "fusion-head"}},
        Refusal.MODEL,
        "not finite",
    ),
    "learning rate": (lambda folder: {"training": {"learning_rate": 1e6}}, Refusal.MODEL, "learning_rate"),
    "learning rate, int8": (
        lambda folder: {"training": {"learning_rate": 1e6}, "federation": {"wire": "int8", "rounds": 1}},
        Refusal.MODEL,
        "learning_rate",
    ),
}


def ask(hospital: Hospital, message: Message) -> Message:
    own = {"site-dir": str(hospital.path)}
    return app(message, Context(run_id=1, node_id=1, node_config=own, state=RecordDict(), run_config={}))


def plans(hospital: Hospital) -> list[Any]:
    folder = SiteFolder(hospital.path)
    with folder.ledger(folder.policy()) as ledger:
        return list(ledger.plans())


@pytest.mark.parametrize("case", UNUSABLE)
@pytest.mark.parametrize("kind", [MessageType.TRAIN, MessageType.EVALUATE])
def test_what_cannot_work_is_refused_before_the_data_set_is_opened(
    hospital: Hospital, configured: Configured, tmp_path: Path, case: str, kind: str
) -> None:
    sections, code, reason = UNUSABLE[case]
    config = configured(**{"federation": {"rounds": 1}} | sections(tmp_path / "text"))
    name = f"resnet10+{config.model.text}"
    hospital.sign(by_two=True, run__models=[name], run__trainable=["full", "fusion-head"])
    hospital.write_site(dataset="/there/is/no/such/folder")
    reply = ask(hospital, request(config, kind))
    assert reply.has_error() and reply.error.reason == code, refusals(hospital.state)
    assert reason in refusals(hospital.state)[-1]
    assert not plans(hospital)


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_simulation_refuses_it_before_anything_is_written(
    configured: Configured, tmp_path: Path, case: str
) -> None:
    sections, _, reason = UNUSABLE[case]
    with pytest.raises((MmmedError, PrivacyError), match=reason):
        start_run(
            configured(**sections(tmp_path / "text")),
            folder=tmp_path / "run",
            engine="inprocess",
            workers=1,
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("dtype", "trainable"),
    [(torch.float16, "lora"), (torch.bfloat16, "full"), (torch.bfloat16, "fusion-head")],
)
def test_weights_saved_in_half_precision_are_trained_in_full(
    hospital: Hospital, configured: Configured, tmp_path: Path, dtype: torch.dtype, trainable: str
) -> None:
    text = str(text_folder(tmp_path / "text", dtype=dtype))
    config = configured(model={"text": text, "trainable": trainable})
    assert {p.dtype for p in build_model(config).parameters()} == {torch.float32}
    hospital.sign(by_two=True, run__models=[f"resnet10+{text}"], run__trainable=[trainable])
    reply = ask(hospital, request(config))
    assert not reply.has_error(), refusals(hospital.state)


def test_a_tokenizer_that_cannot_pad_is_refused(tmp_path: Path, configured: Configured) -> None:
    folder = text_folder(tmp_path / "text")
    tokenizer = load_tokenizer("tiny").__class__.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="padding token"):
        load_tokenizer(str(folder))


def test_noise_that_the_lattice_cannot_hold_is_refused_when_the_step_is_made(configured: Configured) -> None:
    model = build_model(config := configured())
    with pytest.raises(NoiseError, match="Train fewer parameters"):
        private_step(model, make_optimizer(model, config.training), config, noise_multiplier=1e6)


ERRORS = [
    DataError("patient-0007.png"),
    ConfigError("x"),
    ModelError("x"),
    WireError("not-finite", "x"),
    BudgetExceeded("x"),
    PlanError("x"),
    PolicyRefusal("metrics", "x"),
    MemoryError(),
    OSError(errno.ENOSPC, "no space left on device"),
    RuntimeError("CUDA out of memory"),
    ValueError("patient-0007"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_goes_wrong_with_a_record_leaves_as_one_code(
    hospital: Hospital, configured: Configured, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(client.training, "patient_batches", lambda *_: fail)
    reply = ask(hospital, request(configured()))
    assert reply.has_error() and reply.error.reason == Refusal.FAILED
    assert type(error).__name__ in refusals(hospital.state)[-1]  # at the site it is told
    assert [plan.run_id for plan in plans(hospital)] == ["r"]
    monkeypatch.setattr(client.evaluation, "predict", fail)
    config = configured(federation={"rounds": 1})
    reply = ask(hospital, request(config, MessageType.EVALUATE))
    assert reply.has_error() and reply.error.reason == Refusal.FAILED


@pytest.mark.parametrize("wire", ["float32", "int8"])
def test_what_goes_wrong_after_training_leaves_as_the_same_code(
    hospital: Hospital, configured: Configured, monkeypatch: pytest.MonkeyPatch, wire: str
) -> None:
    config = configured(federation={"wire": wire})
    message = request(config)
    folder = hospital.state / "released"
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file where the answers should go")
    assert ask(hospital, message).error.reason == Refusal.FAILED
    assert [plan.run_id for plan in plans(hospital)] == ["r"]


def test_a_file_that_is_damaged_or_gone_during_a_round_leaves_as_that_code(
    hospital: Hospital, configured: Configured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The cache is damaged and the file behind it gone, after the data set was opened."""
    draw = PatientBatches.__call__

    def damage(self: PatientBatches, *drawn: Any) -> Any:
        rows = self._records.modalities["image"].values
        if isinstance(rows, CachedRows):  # the hospital's: made-up ones are in no cache
            for file in (hospital.state / "images").glob("*.pixels"):
                file.write_bytes(b"\x01" * file.stat().st_size)
            rows._paths = tuple(tmp_path / "gone.png" for _ in rows._paths)
        return draw(self, *drawn)

    monkeypatch.setattr(PatientBatches, "__call__", damage)
    reply = ask(hospital, request(configured()))
    assert reply.error.reason == Refusal.FAILED
    assert "gone.png" in refusals(hospital.state)[-1]


def test_a_disk_that_is_full_of_features_leaves_as_that_code(
    hospital: Hospital, configured: Configured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = str(text_folder(tmp_path / "text"))
    config = configured(model={"text": text, "trainable": "fusion-head"})
    hospital.sign(by_two=True, run__models=[f"resnet10+{text}"], run__trainable=["fusion-head"])
    try_run(config)  # what is made up has its features now

    def full(self: FeatureFile, *_: Any) -> None:
        raise self._unusable(OSError(errno.ENOSPC, "no space left on device"))

    monkeypatch.setattr(FeatureFile, "append", full)
    assert ask(hospital, request(config)).error.reason == Refusal.FAILED
    assert "no space left" in refusals(hospital.state)[-1]
