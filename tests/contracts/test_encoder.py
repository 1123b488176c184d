"""What holds for every encoder at a tiny size; the default ones are in `test_modality.py`, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mmmed.config import RunConfig, from_flat, resolve, to_flat, to_toml
from mmmed.data.batch import Batch, Input
from mmmed.data.made_up import made_up_records
from mmmed.errors import ConfigError, ModelError
from mmmed.modalities.text import WORDS
from mmmed.modalities.volume import VolumeModel
from mmmed.models import MultimodalModel, build_model, load_model, save_model, trunks
from mmmed.models.names import former_policy_name, in_words, policy_name
from mmmed.models.tokens import load_tokenizer
from mmmed.models.words.bag import BagOfWords, TfIdf
from mmmed.tasks import Classification
from tests.contracts.steps import check_independence, check_private_step, exact
from tests.mmmed.models.test_models import changed, set_row

COLUMNS: dict[str, dict[str, Any]] = {
    "image": {"image": "film"},
    "text": {"text": "note"},
    "volume": {"volume": "scan"},
    "table": {"numbers": {"age": [0, 90], "crp": [0, 5]}, "categories": {"sex": ["F", "M"]}},
}
LARGER = {"convnext-tiny": {"image_size": 32}, "densenet121": {"volume_size": 32}}
ENCODERS = [
    *(("image", name) for name in ("resnet50", "vgg16", "convnext-tiny", "vit-tiny", "swin-tiny")),
    *(("volume", name) for name in ("densenet121", "swin-unetr")),
    *(("text", name) for name in WORDS),
    ("table", "ft-transformer"),
]
LONG = {
    "convnext-tiny",
    "resnet50",
    "vgg16",
    "densenet121",
    "swin-unetr",
}  # 10 CPU-s and more a step in float64
STEPS = [
    pytest.param(*one, marks=[pytest.mark.slow] if one[1] in LONG else [], id=" ".join(one))
    for one in ENCODERS
]
EVERY = pytest.mark.parametrize(("modality", "name"), ENCODERS, ids=[" ".join(one) for one in ENCODERS])


@pytest.fixture(autouse=True)
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block a stage; two where every second one shifts its windows."""
    for name, stages in trunks.DEPTHS.items():
        monkeypatch.setitem(trunks.DEPTHS, name, [2, 1, 1, 1] if "swin" in name else [1] * len(stages))


@pytest.fixture
def public(tmp_path: Path) -> str:
    """Notes that anybody may read."""
    file = tmp_path / "public.txt"
    file.write_text("no lesion in the left lung\n\na small lesion\nno effusion\n", encoding="utf-8")
    return str(file)


def a_run(modality: str, name: str, public: str = "", **sections: Any) -> RunConfig:
    model = {"image_width": 8, "volume_width": 8, "fusion": {"width": 8, "heads": 2}, modality: name}
    if name == "tf-idf":
        model["text_public"] = public
    data = {"image": "", "text": "", "image_size": 16, "text_tokens": 8, "volume_size": 16} | LARGER.get(
        name, {}
    )
    return RunConfig.model_validate({"data": data | COLUMNS[modality], "model": model, **sections})


def made_up(config: RunConfig, patients: int = 2) -> tuple[MultimodalModel, Batch]:
    records = made_up_records(config, patients)
    model = build_model(config)
    nn.init.normal_(model.head.weight)
    return model, records.batch(np.arange(len(records)), records.patient)


@pytest.mark.parametrize(("modality", "name"), STEPS)
def test_a_private_step_is_the_definitions_and_records_are_independent(
    modality: str, name: str, public: str
) -> None:
    model, batch = exact(*made_up(a_run(modality, name, public)))
    check_independence(model, batch)
    check_private_step(model.train(), Classification().target(), batch)


@pytest.mark.parametrize(("modality", "name"), STEPS)
def test_what_is_missing_reaches_nothing_and_the_rest_reaches_the_logits(
    modality: str, name: str, public: str
) -> None:
    model, batch = made_up(a_run(modality, name, public))
    given = batch.inputs[modality]
    with torch.no_grad():
        model.eval()
        expected = model(batch)
        assert not torch.allclose(expected[0], expected[1])  # the first has everything, the second nothing
        values = set_row(given.values, 1, given.values[0])
        torch.testing.assert_close(model(changed(batch, modality, values=values)), expected)
        values = set_row(given.values, 0, given.values[-1])
        assert not torch.allclose(model(changed(batch, modality, values=values))[0], expected[0])


@EVERY
def test_a_model_of_it_is_named_saved_and_read(modality: str, name: str, public: str, tmp_path: Path) -> None:
    config = a_run(modality, name, public)
    assert from_flat(to_flat(config)) == config
    assert name in in_words(config) and name in policy_name(config)
    model, batch = made_up(config)
    save_model(tmp_path / "model", model, config)
    again, read = load_model(tmp_path / "model")
    assert read == config
    torch.testing.assert_close(again(batch), model.eval()(batch))


def test_no_two_encoders_of_a_modality_have_the_same_name(public: str) -> None:
    assert len({policy_name(a_run(*one, public)) for one in ENCODERS}) == len(ENCODERS)


@pytest.mark.parametrize(("text", "words"), [("", "holds no text"), (None, "cannot be read")])
def test_public_text_that_cannot_be_read_is_named(text: str | None, words: str, tmp_path: Path) -> None:
    file = tmp_path / "public.txt"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ModelError, match=f"text_public: .*public.txt .*{words}|text_public: .*{words}"):
        build_model(a_run("text", "tf-idf", str(file)))
    with pytest.raises(ValueError, match="needs text_public"):
        a_run("text", "tf-idf")


def test_rare_words_of_public_text_weigh_more(public: str) -> None:
    encoder = build_model(a_run("text", "tf-idf", public)).encoder("text")
    assert isinstance(encoder, TfIdf)
    vocabulary = load_tokenizer("tf-idf").get_vocab()
    lesion, effusion = (float(encoder.frequencies[vocabulary[word]]) for word in ("lesion", "effusion"))
    assert lesion == pytest.approx(np.log(4 / 3) + 1) and effusion == pytest.approx(np.log(4 / 2) + 1)


def test_a_bag_counts_words_and_pairs_and_nothing_else(public: str) -> None:
    config = a_run("text", "bag-of-words")
    encoder = build_model(config).encoder("text")
    assert isinstance(encoder, BagOfWords)
    tokenizer = load_tokenizer("bag-of-words")
    read = tokenizer(
        ["no lesion no", "lesion no no", ""], padding="max_length", max_length=8, return_tensors="pt"
    )
    counts = encoder.counts(Input(read["input_ids"], read["attention_mask"].bool()))
    no, lesion = (tokenizer.get_vocab()[word] for word in ("no", "lesion"))
    assert counts[:, [no, lesion]].tolist() == [[2, 1], [2, 1], [0, 0]]
    assert counts.sum(1).tolist() == [5, 5, 0] and not torch.equal(counts[0], counts[1])
    lengths = encoder.weighted(counts).norm(dim=1)
    torch.testing.assert_close(lengths, torch.tensor([1.0, 1.0, 0.0]))


@pytest.mark.parametrize("name", WORDS)
def test_how_much_padding_is_behind_a_note_does_not_show(name: str, public: str) -> None:
    model, batch = made_up(a_run("text", name, public))
    encoder = model.eval().encoder("text")
    values = batch.inputs["text"].values[:1]
    for length in (1, 5):
        there = torch.arange(values.shape[1])[None] < length
        short = encoder(Input(values[:, :length], there[:, :length]))
        whole = encoder(Input(values.masked_fill(~there, 7), there))
        torch.testing.assert_close(whole[:, :length], short)


def test_adapters_of_what_is_no_transformer_are_refused() -> None:
    config = RunConfig.model_validate({"model": {"text": "word-gru", "trainable": "lora"}})
    with pytest.raises(
        ModelError, match=r"lora. adapts a transformer, and model\.text = 'word-gru' has none"
    ):
        build_model(config)


@pytest.mark.parametrize(
    ("modality", "name", "key"),
    [("image", "convnext-tiny", "image_size"), ("volume", "densenet121", "volume_size")],
)
def test_files_too_small_for_an_encoder_are_refused(
    modality: str, name: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(LARGER, name)
    with pytest.raises(ModelError, match=f"{name}.* of 32 .* a side or more. Found data.{key} = 16"):
        build_model(a_run(modality, name))


@pytest.mark.parametrize("name", ["vgg16", "vit-tiny", "swin-tiny"])
def test_local_weights_are_read_without_their_classifier(name: str, tmp_path: Path) -> None:
    config = a_run("image", name)
    state = build_model(config).encoder("image").trunk.state_dict()
    whole = {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}
    torch.save(whole | {"classifier.weight": torch.ones(2, 2), "head.bias": torch.ones(2)}, tmp_path / "w.pt")
    model = {**config.model.model_dump(), "image_weights": str(tmp_path / "w.pt")}
    loaded = build_model(RunConfig.model_validate({"data": config.data, "model": model}))
    for key, value in loaded.encoder("image").trunk.state_dict().items():
        torch.testing.assert_close(value, whole[key])


def test_a_former_name_allows_no_encoder_that_came_later() -> None:
    both = {"numbers": {"age": [0, 90]}}
    former = former_policy_name(RunConfig.model_validate({"data": both}))
    assert former == "resnet10+tiny"
    later = RunConfig.model_validate({"data": both, "model": {"table": "ft-transformer"}})
    assert former_policy_name(later) is None and policy_name(later) == "resnet10+tiny+ft-transformer"


def test_a_missing_value_and_another_one_are_told_apart_by_the_columns_that_are_there() -> None:
    """The transformer's columns see each other: what one says depends on another's value, none on a missing one's."""
    model, _ = made_up(a_run("table", "ft-transformer"))
    encoder = model.eval().encoder("table")
    values = torch.tensor([[0.5, -1.0, 1.0, 0.0]])
    whole, part = torch.tensor([[True, True, True]]), torch.tensor([[True, False, True]])
    moved = values + torch.tensor([[0.0, 3.0, 0.0, 0.0]])
    assert not torch.allclose(encoder(Input(values, whole)), encoder(Input(moved, whole)))
    torch.testing.assert_close(encoder(Input(values, part)), encoder(Input(moved, part)))


@pytest.mark.parametrize(
    ("asked", "columns"),
    [
        ("model.volume=swin-unetr", "data.volume"),
        ("model.table=ft-transformer", "data.numbers or data.categories"),
    ],
)
def test_an_encoder_without_a_column_is_refused(asked: str, columns: str, tmp_path: Path) -> None:
    key = asked.partition("=")[0]
    with pytest.raises(
        ConfigError, match=f"--set: {key} is the encoder of .* no column is named by {columns}"
    ):
        resolve(None, [asked])
    dropped = resolve(
        None, [asked, 'data.volume=""', "data.numbers={}"]
    ).config  # said so: one modality left out
    (tmp_path / "run.toml").write_text(to_toml(dropped))
    assert resolve(tmp_path / "run.toml").config == dropped


@pytest.mark.parametrize("name", ["resnet10", "swin-unetr"])
def test_local_weights_of_volumes_are_read_as_their_networks_come(name: str, tmp_path: Path) -> None:
    """ResNets as Med3D's are saved, with BatchNorm and from DataParallel; a whole SwinUNETR with its decoder."""
    config = a_run("volume", name)
    trunk, _ = trunks.volume_trunk(config.model.of(VolumeModel), 16)
    whole = {key: torch.rand_like(v) if v.is_floating_point() else v for key, v in trunk.state_dict().items()}
    saved = {f"module.{key}": value for key, value in whole.items()} | {"module.fc.weight": torch.ones(2, 2)}
    if name == "swin-unetr":
        saved = whole | {"decoder5.conv.weight": torch.ones(2, 2), "out.bias": torch.ones(2)}
    torch.save({"state_dict": saved}, tmp_path / "w+1.pt")
    keys = {**config.model.model_dump(), "volume_weights": str(tmp_path / "w+1.pt")}
    given = RunConfig.model_validate({"data": config.data, "model": keys})
    loaded = build_model(given).encoder("volume").trunk.state_dict()
    assert loaded.keys() == whole.keys()
    assert all(torch.equal(value, whole[key]) for key, value in loaded.items())
    assert policy_name(given) == f"3d-{name}:{tmp_path}/w%2B1.pt" and former_policy_name(given) is None
    assert former_policy_name(config) == f"resnet10+tiny+3d-{name}"
    torch.save({"conv1.weight": torch.ones(1)}, tmp_path / "w+1.pt")
    with pytest.raises(ModelError, match=rf"model\.volume_weights: .*w\+1\.pt does not fit {name}"):
        build_model(given)
    (tmp_path / "w+1.pt").write_bytes(b"junk")
    with pytest.raises(ModelError, match=r"model\.volume_weights: .*w\+1\.pt"):
        build_model(given)
