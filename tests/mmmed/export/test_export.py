"""What is exported is read back by the tool that it is for, and computes what mmmed computes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import onnxruntime
import pytest
import torch
from monai.bundle import ConfigParser
from safetensors import safe_open
from torch import nn
from transformers import T5Config, T5Model
from typer.testing import CliRunner

import mmmed
from mmmed._transformers import AutoModel, AutoTokenizer
from mmmed.cli import app
from mmmed.config import RunConfig
from mmmed.data.batch import Batch
from mmmed.errors import ConfigError, ModelError
from mmmed.export import FORMATS, write
from mmmed.export.huggingface import merged, text_encoder, write_encoder
from mmmed.export.trained import Trained, example, read_trained
from mmmed.models import build_model
from mmmed.models.fusion import FUSIONS, Fusion
from mmmed.models.fusion.linear import LinearFusion

MONAI_ASKS = {
    "version", "changelog", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task",
    "description", "authors", "copyright", "network_data_format",
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(kept_run: Path) -> Trained:
    return read_trained(kept_run)


def small(fusion: str = "linear", **model: object) -> RunConfig:
    """A run of one note and two values."""
    data = {"image": "", "text": "note", "text_tokens": 8, "numbers": {"age": [0, 90], "crp": [0, 5]}}
    return RunConfig.model_validate({"data": data, "model": {"fusion": {"kind": fusion}, **model}})


def of(config: RunConfig) -> Trained:
    model = build_model(config).eval()
    nn.init.normal_(model.head.weight)  # one that starts at zero would hide all before it
    return Trained(model, config)


# ---------------------------------------------------------------- ONNX


def test_onnx_gives_what_the_model_gives_and_says_what_it_reads(tmp_path: Path) -> None:
    made = of(small(text="word-mean"))
    write(made, "onnx", tmp_path / "out")
    told = json.loads((tmp_path / "out" / "model.json").read_text())
    assert told["predictions"] == ["0", "1"] and told["privacy"] is None
    text, table = told["inputs"]["text"], told["inputs"]["table"]
    assert text["values"] == {"name": "text", "shape": ["records", 8], "dtype": "int64"}
    assert table["present"] == {"name": "table_present", "shape": ["records", 2], "dtype": "bool"}
    assert text["settings"]["text_tokens"] == 8 and table["settings"]["numbers"]["age"] == [0, 90]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    tokens = tokenizer(["no lesion"], padding="max_length", max_length=8, return_tensors="np")
    given = {
        "text": tokens["input_ids"], "text_present": tokens["attention_mask"].astype(bool),
        "table": np.zeros((1, 2), np.float32), "table_present": np.zeros((1, 2), bool),
    }  # fmt: skip
    session = onnxruntime.InferenceSession(
        tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(["predictions"], given)
    network = mmmed.Model(made.network, made.config)
    assert found[0] == pytest.approx(list(network.predict(text="no lesion").values.values()), abs=1e-5)
    with pytest.raises(ConfigError, match="there already"):
        write(made, "onnx", tmp_path / "out")


class DataDependentFusion(LinearFusion):
    """It asks for a number of the batch, which no exported program can."""

    def forward(self, batch: Batch, centring: bool = False) -> torch.Tensor:
        logits = super().forward(batch, centring)
        return logits if float(logits.detach().sum()) > 0 else -logits


class DataDependent(Fusion):
    implementation: ClassVar[str] = "tests.mmmed.export.test_export:DataDependentFusion"

    kind: Literal["data-dependent"] = "data-dependent"


@pytest.fixture
def data_dependent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(FUSIONS.sections, "data-dependent", DataDependent)
    yield


def test_what_torch_cannot_export_is_refused_by_name_and_leaves_nothing(
    data_dependent: None, tmp_path: Path
) -> None:
    with pytest.raises(
        ModelError, match=r"word-mean for text.*data-dependent fusion\): torch cannot write it: "
    ):
        write(of(small("data-dependent", text="word-mean")), "onnx", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- Hugging Face


def test_a_hugging_face_folder_is_read_by_transformers_safetensors_and_mmmed(
    kept_run: Path, trained: Trained, tmp_path: Path
) -> None:
    out = tmp_path / "hf"
    done = CliRunner().invoke(app, ["export", str(kept_run), "--to", "huggingface", "--out", str(out)])
    assert done.exit_code == 0 and str(out) in done.output
    encoder, own = AutoModel.from_pretrained(out), text_encoder(trained.network)
    assert own is not None
    tokens = AutoTokenizer.from_pretrained(out)(["No effusion."], return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(encoder(**tokens).last_hidden_state, own(**tokens).last_hidden_state)
    with safe_open(out / "model" / "model.safetensors", "pt") as weights:
        assert set(weights.keys()) == set(trained.network.state_dict())
    again = mmmed.load_model(out)
    batch = example(trained.config)
    with torch.no_grad():
        torch.testing.assert_close(again.network(batch), trained.network(batch))
    told = json.loads((out / "mmmed.json").read_text())
    epsilon = re.search(r"^Epsilon ([\d.]+) at delta 0\.", (out / "README.md").read_text(), re.MULTILINE)
    assert epsilon and 0 <= float(epsilon[1]) - told["privacy"]["summary"]["epsilon"] < 0.0011
    assert told["privacy"]["summary"]["epsilon"] == pytest.approx(8, abs=0.01)


def test_adapters_are_added_to_the_layers_that_they_adapt() -> None:
    pytest.importorskip("peft")
    own = text_encoder(of(small(trainable="lora")).network)
    assert own is not None
    for name, parameter in own.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)  # which begins at zero
    plain = merged(own)
    assert not any("lora" in name for name in plain.state_dict())
    tokens = torch.arange(1, 6)[None]
    with torch.no_grad():
        torch.testing.assert_close(plain(tokens).last_hidden_state, own(tokens).last_hidden_state)


def test_an_encoder_that_transformers_would_not_read_back_is_left_out(tmp_path: Path) -> None:
    size = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 16}
    half = T5Model(T5Config(**size)).get_encoder()
    assert not write_encoder(half, tmp_path) and list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- MONAI


def test_a_bundle_is_read_by_monai_and_predicts(kept_run: Path, trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    write(trained, "monai", out)
    parser = ConfigParser()
    parser.read_meta(out / "configs" / "metadata.json")
    parser.read_config(out / "configs" / "inference.json")
    meta = parser["_meta_"]
    assert set(meta) >= MONAI_ASKS and all(meta[key] for key in MONAI_ASKS)
    formats = meta["network_data_format"]
    assert (
        formats["inputs"]["image"]["spatial_shape"] == [32, 32]
        and formats["inputs"]["image"]["num_channels"] == 1
    )
    assert formats["outputs"]["pred"]["channel_def"] == {"0": "0", "1": "1"}
    parser["bundle_root"] = str(out)
    parser["study"] = {"text": "No effusion."}
    parser.get_parsed_content("load")
    batch = example(trained.config)
    with torch.no_grad():
        torch.testing.assert_close(parser.get_parsed_content("network")(batch), trained.network(batch))
    expected = mmmed.load_model(kept_run).predict(text="No effusion.").values
    assert parser.get_parsed_content("prediction").values == pytest.approx(expected)


# ---------------------------------------------------------------- the command


def test_what_cannot_be_written_is_told_before_the_model_is_read(tmp_path: Path) -> None:
    for arguments, told in (
        (
            ["--to", "keras", "--out", str(tmp_path / "new")],
            "--to keras: expected one of onnx, huggingface, monai",
        ),
        (["--to", "onnx", "--out", str(tmp_path)], "there already"),
    ):
        with pytest.raises(ConfigError, match=told):
            CliRunner().invoke(app, ["export", str(tmp_path / "no-run"), *arguments], catch_exceptions=False)
    with pytest.raises(ModelError, match="no model"):
        CliRunner().invoke(
            app,
            ["export", str(tmp_path), "--to", "monai", "--out", str(tmp_path / "new")],
            catch_exceptions=False,
        )
    assert list(tmp_path.iterdir()) == [] and set(FORMATS) == {"onnx", "huggingface", "monai"}
