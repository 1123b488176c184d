"""Hugging Face folders as hospitals have them: read right, or refused in one sentence when the model is built."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from mmmed.config import DataConfig, ModelConfig, RunConfig
from mmmed.errors import ModelError
from mmmed.modalities.text import _tokens
from mmmed.models.text import build_text_encoder

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "small", "large", "effusion", "cough", "no"]


def folder(path: Path, **tokenizer: object) -> Path:
    """A tiny BERT with its tokenizer."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=16,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(path)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    stated = {"unk_token": "[UNK]", "pad_token": "[PAD]", **tokenizer}
    PreTrainedTokenizerFast(tokenizer_object=words, **stated).save_pretrained(path)
    return path


def build(path: Path) -> object:
    data = DataConfig(source="x", text="text", text_tokens=8)  # type: ignore[call-arg]
    return build_text_encoder(ModelConfig(text=str(path)), data)  # type: ignore[call-arg]


def _without_tokenizer(path: Path) -> None:
    for file in path.glob("tokenizer*"):
        file.unlink()


def _cut(path: Path) -> None:
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-200])


def _halved(path: Path) -> None:
    state = load_file(path / "model.safetensors")
    save_file(
        {k: v for k, v in state.items() if "layer.0" not in k}, path / "model.safetensors", {"format": "pt"}
    )


def _pickled(path: Path) -> None:
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()


def _more_words(path: Path) -> None:
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["more"] = len(WORDS)
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    "harm, told",
    [(_without_tokenizer, "no tokenizer that knows a word"), (_cut, "cut short or damaged"), (_halved,
     "would be random"),
     (_pickled, "cannot be loaded"), (_more_words, "its embedding has 9 rows")],
)  # fmt: skip
def test_a_folder_that_is_not_whole_is_refused(
    harm: Callable[[Path], None], told: str, tmp_path: Path
) -> None:
    harm(folder(tmp_path))
    with pytest.raises(ModelError, match=told):
        build(tmp_path)


def test_a_folder_without_a_padding_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no padding token"):
        build(folder(tmp_path, pad_token=None))


def test_padding_comes_behind_a_note_whatever_the_folder_says(tmp_path: Path) -> None:
    config = RunConfig.model_validate(
        {
            "data": {"source": "x", "text": "text", "text_tokens": 8},
            "model": {"text": str(folder(tmp_path, padding_side="left"))},
        }
    )
    tokens, mask = _tokens(["small effusion"], config)
    assert tokens[0].tolist() == [4, 6, 0, 0, 0, 0, 0, 0] and mask[0].tolist() == [True] * 2 + [False] * 6
    build(tmp_path)
