from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoModel,
    BartConfig,
    BertConfig,
    BertTokenizer,
    ConvBertConfig,
    DebertaV2Config,
    DistilBertConfig,
    MPNetConfig,
    NystromformerConfig,
    PretrainedConfig,
    RobertaConfig,
    T5Config,
    ViTConfig,
)

from mmmed.config import RunConfig
from mmmed.data.batch import Batch, Input
from mmmed.errors import ModelError
from mmmed.models import build_model, load_model, load_tokenizer, save_model, trainable_state
from mmmed.models.image import build_image_encoder, build_volume_encoder
from mmmed.models.table import TableEncoder
from mmmed.models.tokens import VOCABULARY
from mmmed.tasks import Classification
from mmmed.training import make_optimizer
from privacy.dpsgd import PrivateStep

CLASSES = Classification().target()
SIZE, TOKENS, SIDE = 32, 12, 16
TABLE = {"numbers": {"age": [0, 90], "crp": [0, 5]}, "categories": {"sex": ["F", "M"]}}
EVERYTHING = {"volume": "volume", "volume_size": SIDE, **TABLE}


def configured(**sections: Any) -> RunConfig:
    data = {"image_size": SIZE, "text_tokens": TOKENS} | sections.pop("data", {})
    return RunConfig.model_validate({"data": data, **sections})


def a_batch(rows: int = 3, channels: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.arange(rows) % TOKENS + 1
    pixels = torch.rand(rows, channels, SIZE, SIZE, generator=generator)
    words = torch.randint(5, 200, (rows, TOKENS), generator=generator)
    inputs = {
        "image": Input(pixels, torch.ones(rows, 1, dtype=torch.bool)),
        "text": Input(words, torch.arange(TOKENS) < lengths[:, None]),
        "volume": Input(
            torch.rand(rows, 1, SIDE, SIDE, SIDE, generator=generator), torch.ones(rows, 1, dtype=torch.bool)
        ),
        "table": Input(
            torch.randn(rows, 4, generator=generator), torch.tensor([[True, True, False]]).repeat(rows, 1)
        ),
    }
    return Batch(inputs, label=torch.arange(rows) % 2, unit=torch.arange(rows))


def set_row(tensor: torch.Tensor, row: int, value: Any) -> torch.Tensor:
    out = tensor.clone()
    out[row] = value
    return out


def changed(batch: Batch, name: str, **parts: torch.Tensor) -> Batch:
    """The batch with other `values` or another `present` of one modality."""
    return replace(batch, inputs={**batch.inputs, name: replace(batch.inputs[name], **parts)})


def without(batch: Batch, name: str, row: int = 0) -> Batch:
    """The batch without one record's modality."""
    return changed(batch, name, present=set_row(batch.inputs[name].present, row, False))


@pytest.mark.parametrize("name", ["resnet10", "resnet18"])
def test_volume_encoders_have_no_batchnorm_and_keep_records_apart(name: str) -> None:
    encoder = build_volume_encoder(configured(model={"volume": name, "volume_width": 8}).model).train()
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in encoder.modules())
    volume = torch.rand(3, 1, 20, 24, 33)
    before, after = (
        encoder(Input(values, torch.ones(3, 1, dtype=torch.bool)))
        for values in (volume, set_row(volume, 1, 0.0))
    )
    assert before.shape == (3, 2, encoder.width) and encoder.width == 64
    torch.testing.assert_close(before[[0, 2]], after[[0, 2]])
    assert not torch.allclose(before[1], after[1])


@pytest.mark.parametrize("name", ["resnet10", "resnet18", "densenet121", "efficientnet-b0"])
def test_image_encoders_have_no_batchnorm_and_keep_records_apart(name: str) -> None:
    config = configured(model={"image": name}).model
    encoder = build_image_encoder(config, channels=1).train()
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in encoder.modules())
    image, present = torch.rand(3, 1, 64, 64), torch.ones(3, 1, dtype=torch.bool)
    # stochastic depth draws for each record; the same draws for both passes
    torch.manual_seed(0)
    before = encoder(Input(image, present))
    torch.manual_seed(0)
    after = encoder(Input(set_row(image, 1, 0.0), present))
    assert before.shape[0] == 3 and before.shape[2] == encoder.width
    torch.testing.assert_close(before[[0, 2]], after[[0, 2]])
    assert not torch.allclose(before[1], after[1])


def test_a_missing_value_of_a_table_does_not_reach_the_output_and_the_others_do() -> None:
    model, batch = build_model(configured(data=EVERYTHING)).eval(), a_batch()
    values = batch.inputs["table"].values
    with torch.no_grad():
        expected = model(batch)
        for feature, column in enumerate([0, 1, 2, 2]):  # the third column, of two features, is missing
            other = values.clone()
            other[:, feature] += 1
            same = torch.equal(model(changed(batch, "table", values=other)), expected)
            assert same == (column == 2)


def test_each_column_of_a_table_has_weights_of_its_own() -> None:
    encoder = TableEncoder([1, 1, 2])
    values = torch.tensor([[0.5, 0.5, 1.0, 0.0]])
    tokens = encoder(Input(values, torch.ones(1, 3, dtype=torch.bool)))
    assert tokens.shape == (1, 3, encoder.width)
    assert not torch.allclose(tokens[0, 0], tokens[0, 1])
    moved = encoder(Input(values + torch.tensor([[0.3, 0, 0, 0]]), torch.ones(1, 3, dtype=torch.bool)))
    assert not torch.allclose(moved[0, 0], tokens[0, 0])
    torch.testing.assert_close(moved[0, 1:], tokens[0, 1:])


def test_padding_does_not_reach_the_output() -> None:
    model, batch = build_model(configured()).eval(), a_batch()
    note = batch.inputs["text"]
    padded = changed(batch, "text", values=torch.where(note.present, note.values, torch.tensor(7)))
    with torch.no_grad():
        torch.testing.assert_close(model(padded), model(batch))


def test_everyone_builds_equal_parameters_and_nobodys_random_state_moves() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = build_model(configured())
    assert torch.equal(torch.rand(1), expected)
    second, other = build_model(configured()), build_model(configured(training={"seed": 1}))
    for name, value in trainable_state(first).items():
        assert torch.equal(value, trainable_state(second)[name])
    assert any(not torch.equal(v, trainable_state(other)[n]) for n, v in trainable_state(first).items())


def test_trainable_sets() -> None:
    full = trainable_state(build_model(configured()))
    head = trainable_state(build_model(configured(model={"trainable": "fusion-head"})))
    norms = trainable_state(build_model(configured(model={"trainable": "norm-bias"})))
    assert set(full) == {name for name, _ in build_model(configured()).named_parameters()}
    assert head and not any(name.startswith(("image.", "text.")) for name in head)
    both = trainable_state(build_model(configured(data=TABLE, model={"trainable": "fusion-head"})))
    assert {"table.linear.weight", "table_projection.weight"} < set(both)
    assert {"head.weight", "head.bias"} <= set(norms) < set(full)
    assert any(name.startswith("image.") for name in norms)
    assert sum(v.numel() for v in norms.values()) < 0.05 * sum(v.numel() for v in full.values())


@pytest.mark.parametrize(
    ("data", "absent"),
    [
        ({"image": ""}, "image."),
        ({"text": ""}, "text."),
        ({"image_channels": 3}, "none"),
        ({"volume": "volume", "image": "", "text": ""}, "image."),
        ({"volume": "volume"}, "none"),
        ({"image": "", "text": "", **TABLE}, "text."),
    ],
)
def test_one_modality_or_colour(data: dict[str, Any], absent: str) -> None:
    model = build_model(configured(data=data))
    assert not any(name.startswith(absent) for name in trainable_state(model))
    assert model(a_batch(channels=data.get("image_channels", 1))).shape == (3, 1)
    three = configured(data=data, task={"classes": ["a", "b", "c"]})
    assert build_model(three)(a_batch(channels=data.get("image_channels", 1))).shape == (3, 3)


def test_a_saved_model_predicts_the_same(tmp_path: Path) -> None:
    config, batch = configured(), a_batch()
    model = build_model(config).eval()
    with torch.no_grad():
        model.head.weight.add_(1)
        save_model(tmp_path / "m", model, config)
        loaded, read = load_model(tmp_path / "m")
        torch.testing.assert_close(loaded(batch), model(batch), rtol=0, atol=0)
    assert read == config


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    config = configured()
    save_model(tmp_path, build_model(config), config)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="does not hold"):
        load_model(tmp_path)
    weights.unlink()
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        load_model(tmp_path)


def test_pretrained_image_weights_fit_or_are_refused(tmp_path: Path) -> None:
    good = build_image_encoder(configured(training={"seed": 5}).model, 1)
    save_file(good.trunk.state_dict(), tmp_path / "good.safetensors")
    torch.save({"state_dict": good.trunk.state_dict()}, tmp_path / "good.pt")
    for name in ("good.safetensors", "good.pt"):
        loaded = build_image_encoder(configured(model={"image_weights": str(tmp_path / name)}).model, 1)
        assert torch.equal(loaded.trunk.conv1.weight, good.trunk.conv1.weight)
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "part.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    for name, words in (
        ("part.pt", "."),
        ("junk.pt", "junk"),
        ("absent.pt", "absent"),
    ):
        with pytest.raises(ModelError, match=words):
            build_image_encoder(configured(model={"image_weights": str(tmp_path / name)}).model, 1)


SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def local_folder(folder: Path, kind: type[PretrainedConfig] = BertConfig, **sizes: Any) -> Path:
    """A tiny model of one kind, saved as Hugging Face saves it."""
    tokenizer = BertTokenizer(vocab=str(VOCABULARY))
    own = {"vocab_size": len(tokenizer), "max_position_embeddings": 16} | (sizes or SIZES)
    AutoModel.from_config(kind(**own)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def local_bert(tmp_path: Path) -> Path:
    return local_folder(tmp_path / "bert")


def trained_by_a_private_step(
    folder: Path, engine: Literal["bookkeeping", "hooks"] = "bookkeeping"
) -> list[str]:
    """Names of what is trained with a folder's encoder; asserts that a private step moves all of it."""
    config = configured(model={"text": str(folder)}, data={"image": ""})
    model, batch = build_model(config).train(), a_batch(4)
    optimizer = make_optimizer(model, config.training)
    step = PrivateStep(model, optimizer, noise_multiplier=1, max_grad_norm=1, expected_units=3, engine=engine)
    before = {name: value.clone() for name, value in trainable_state(model).items()}
    step(lambda: CLASSES.losses(model(batch), batch.label), torch.tensor([0, 0, 1, 2]))
    assert all(not torch.equal(before[name], value) for name, value in trainable_state(model).items())
    return list(before)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        (BertConfig, SIZES),
        (RobertaConfig, SIZES | {"pad_token_id": 0}),
        (DistilBertConfig, {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}),
    ],
)
@pytest.mark.parametrize("engine", ["bookkeeping", "hooks"])
def test_every_kind_of_text_encoder_trains_privately(
    tmp_path: Path,
    kind: type[PretrainedConfig],
    sizes: dict[str, int],
    engine: Literal["bookkeeping", "hooks"],
) -> None:
    names = trained_by_a_private_step(local_folder(tmp_path / "text", kind, **sizes), engine)
    assert names


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        (MPNetConfig, SIZES | {"max_position_embeddings": 20}),
        (
            DebertaV2Config,
            SIZES | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "hidden_dropout_prob": 0.0},
        ),
        (T5Config, {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2}),
        (BartConfig, {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}),
    ],
)
def test_encoders_with_biases_by_distance_and_those_of_encoder_decoders_train_privately(
    tmp_path: Path, kind: type[PretrainedConfig], sizes: dict[str, Any]
) -> None:
    names = trained_by_a_private_step(local_folder(tmp_path / "text", kind, **sizes))
    assert not any("decoder" in name for name in names)


def test_a_text_model_that_cannot_read_a_whole_note_or_gives_no_tokens_is_refused(tmp_path: Path) -> None:
    short = local_folder(tmp_path / "short", RobertaConfig, **SIZES, pad_token_id=1)  # positions from 2 on
    with pytest.raises(ModelError, match=r"does not encode a note of 16 tokens.*data\.text_tokens"):
        build_model(configured(data={"text_tokens": 16}, model={"text": str(short)}))
    assert build_model(configured(data={"text_tokens": 14}, model={"text": str(short)}))
    pictures = local_folder(tmp_path / "pictures", ViTConfig, **SIZES)
    with pytest.raises(ModelError, match="take a model that encodes text"):
        build_model(configured(model={"text": str(pictures)}))


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        (ConvBertConfig, SIZES | {"embedding_size": 32}),
        (NystromformerConfig, SIZES | {"num_landmarks": 4, "segment_means_seq_len": 16}),
    ],
)
def test_a_text_model_to_which_the_longest_note_of_a_batch_matters_is_refused(
    tmp_path: Path, kind: type[PretrainedConfig], sizes: dict[str, Any]
) -> None:
    folder = local_folder(tmp_path / "text", kind, **sizes)
    with pytest.raises(
        ModelError, match=r"reads the padding behind a note|does not encode a note of 8 tokens"
    ):
        build_model(configured(data={"text_tokens": 16}, model={"text": str(folder)}))


def test_any_local_hugging_face_folder_is_a_text_encoder(local_bert: Path) -> None:
    config = configured(model={"text": str(local_bert)})
    assert build_model(config)(a_batch()).shape == (3, 1)
    assert load_tokenizer(str(local_bert))(["no effusion"])["input_ids"]
    with pytest.raises(ModelError, match="at most 16"):
        build_model(configured(data={"text_tokens": 32}, model={"text": str(local_bert)}))


@pytest.mark.parametrize("name", ["bert-base-uncased", "/nowhere"])
def test_a_text_model_that_is_not_here_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="never downloaded"):
        build_model(configured(model={"text": name}))
    with pytest.raises(ModelError, match="never downloaded"):
        load_tokenizer(name)


def test_the_vocabulary_covers_any_note() -> None:
    tokenizer = load_tokenizer("tiny")
    pieces = tokenizer.tokenize("Pt c/o dyspnoea; no PNEUMOTHORAX, SpO2 91% on 3 L/min. Zxqj?")
    assert "[UNK]" not in pieces
    assert len(set(tokenizer.get_vocab())) == len(VOCABULARY.read_text(encoding="utf-8").split())
