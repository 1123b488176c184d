"""The decoder: what it writes is what it says is probable, and it trains exactly in every mode or is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from mmmed.config import RunConfig
from mmmed.data.batch import Batch, Input
from mmmed.errors import ModelError
from mmmed.models import build_model, frozen_digests, load_model, save_model, trainable_state
from mmmed.models.decoder import Decoder, WritingModel, spelling
from mmmed.models.names import former_policy_name, in_words, policy_name
from mmmed.training.loop import part_size
from tests.contracts.steps import check_independence, check_private_step, exact

WORDS = ["[PAD]", "[UNK]", "<end>", "small", "large", "effusion", "nodule", "no"]
ROWS = 4
TABLE = {"image": "", "text": "", "numbers": {"age": [0, 90]}}


def a_decoder(words: int, length: int, beams: int) -> Decoder:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=words, n_positions=2 + length, n_embd=8, n_layer=1, n_head=2, initializer_range=0.7,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return Decoder(
        GPT2LMHeadModel(config), prefix=2, length=length, end=0, beams=beams, is_given=False
    ).double()


def log_p(decoder: Decoder, prefix: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """(R,) log-probability of each text up to its end, by teacher forcing."""
    steps = torch.log_softmax(decoder(prefix, text).view(*text.shape, -1), -1)
    each = steps.gather(2, text[..., None])[..., 0]
    return (each * ((text == 0).cumsum(1) - (text == 0).long() == 0)).sum(1)


def texts_of(words: int, length: int) -> list[list[int]]:
    """All texts: after an end there are ends alone."""
    every = [list(one) for one in itertools.product(range(words), repeat=length)]
    return [one for one in every if 0 not in one or not any(one[one.index(0) :])]


@torch.no_grad()
def test_it_writes_the_likeliest_token_each_time_or_the_likeliest_text_of_all() -> None:
    words, length, rows = 5, 3, 24
    prefix = 2 * torch.randn(rows, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    greedy, few, wide = (a_decoder(words, length, beams) for beams in (1, 3, words**length))
    written, best = greedy.write(prefix), wide.write(prefix)
    assert written.shape == (rows, length) and written.dtype == torch.int64
    likeliest = greedy(prefix, written).view(rows, length, -1).argmax(-1)
    own = (written == 0).cumsum(1) - (written == 0).long() == 0  # up to the end, which ends follow
    assert (likeliest == written)[own].all() and (written == 0)[~own].all() and (~own).any()
    every = torch.tensor(texts_of(words, length))
    for row, text in zip(prefix, best, strict=True):
        scores = log_p(wide, row.expand(len(every), -1), every)
        assert every[scores.argmax()].tolist() == text.tolist()
    assert (best != written).any()  # else there was nothing to search for
    assert (log_p(few, prefix, few.write(prefix)) <= log_p(few, prefix, best) + 1e-12).all()


@torch.no_grad()
def test_no_token_reaches_those_before_it_and_no_record_another() -> None:
    decoder, prefix = a_decoder(6, 5, 2), torch.randn(3, 16, dtype=torch.float64)
    text = torch.randint(0, 6, (3, 5))
    logits = decoder(prefix, text).view(3, 5, -1)
    for place in range(5):
        other = text.clone()
        other[:, place:] = (other[:, place:] + 1) % 6
        torch.testing.assert_close(
            decoder(prefix, other).view(3, 5, -1)[:, : place + 1], logits[:, : place + 1]
        )
    for row in range(3):
        assert decoder.write(prefix[[row]]).tolist() == decoder.write(prefix)[[row]].tolist()


# ---------------------------------------------------------------- a folder with weights


def folder(path: Path, words: list[str] = WORDS, size: int = len(WORDS), **tokenizer: str) -> Path:
    """A small GPT-2 with its tokenizer."""
    torch.manual_seed(0)
    sizes = {"vocab_size": size, "n_positions": 10, "n_embd": 16, "n_layer": 1, "n_head": 2}
    config = GPT2Config(**sizes, bos_token_id=2, eos_token_id=2)  # with dropout
    GPT2LMHeadModel(config).save_pretrained(path)
    known = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    known.pre_tokenizer = pre_tokenizers.Whitespace()
    stated = tokenizer or {"eos_token": "<end>"}
    PreTrainedTokenizerFast(tokenizer_object=known, unk_token="[UNK]", **stated).save_pretrained(path)
    return path


def configured(decoder: object, trainable: str = "full", **task: Any) -> RunConfig:
    keys = {"kind": "report", "decoder_model": str(decoder), "tokens": 5, "prefix": 2, **task}
    model = {"trainable": trainable, "lora_rank": 2, "fusion": {"kind": "mean", "width": 8}}
    return RunConfig.model_validate({"task": keys, "data": TABLE, "model": model})


def a_batch(config: RunConfig) -> Batch:
    values = torch.linspace(-1, 1, ROWS)[:, None]
    given = Input(values, torch.ones(ROWS, 1, dtype=torch.bool))
    return Batch({"table": given}, config.task.target().made_up(ROWS), torch.tensor([0, 1, 0, 1]))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("gpt2"))


@pytest.mark.parametrize("trainable", ["full", "norm-bias", "fusion-head", "lora"])
def test_a_given_decoder_trains_exactly_in_every_mode(given: Path, trainable: str, tmp_path: Path) -> None:
    config = configured(given, trainable)
    model = build_model(config)
    assert isinstance(model, WritingModel)
    trained = {name for name in trainable_state(model) if name.startswith("decoder.")}
    assert bool(trained) == (trainable != "fusion-head")
    assert all("lora_" in name for name in trained) == (trainable in ("lora", "fusion-head"))
    digests = frozen_digests(model, config)
    assert ("decoder" in digests) == (trainable != "full") and "decoder's tokenizer" in digests
    nn.init.normal_(model.head.weight)
    save_model(tmp_path, model, config)
    loaded, _ = load_model(tmp_path)
    batch = a_batch(config)
    torch.testing.assert_close(loaded(batch), model.eval()(batch), rtol=0, atol=0)
    model, batch = exact(model.train(), batch)
    check_private_step(model, config.task.target(), batch)
    check_independence(model, batch)
    torch.testing.assert_close(model.train()(batch), model.eval()(batch))  # the folder's dropout is none here


def test_one_learnt_from_scratch_is_trained_with_the_fusion_and_not_by_norms_and_biases() -> None:
    for trainable in ("full", "fusion-head"):
        model = build_model(configured("tiny", trainable, decoder_width=32, decoder_layers=1))
        assert all(one.requires_grad for one in model.get_submodule("decoder").parameters())
    with pytest.raises(ValueError, match="learnt from scratch as they were drawn"):
        configured("tiny", "norm-bias")
    with pytest.raises(ValueError, match="adapts the text encoder"):
        configured("tiny", "lora")


def test_it_is_in_the_models_name_and_in_how_much_is_computed_at_once(given: Path) -> None:
    config = configured("tiny", decoder_layers=3, decoder_width=96)
    assert policy_name(config) == "table+decoder:tiny:3x96" and former_policy_name(config) is None
    assert policy_name(configured(given)) == f"table+decoder:{given}"
    assert in_words(config).endswith("mean fusion, decoder:tiny:3x96") and part_size(config) == 32


def test_texts_are_spelt_and_read_again(given: Path) -> None:
    spelt = spelling(str(given))
    tokens = spelt.encode(["no small effusion", "large <end> nodule", "", "no no no no no no"], 4)
    assert tokens.tolist() == [[7, 3, 5, 2], [4, 6, 2, 2], [2, 2, 2, 2], [7, 7, 7, 7]]
    assert spelt.decode(tokens.astype(np.float64)) == [
        "no small effusion", "large nodule", "", "no no no no",
    ]  # fmt: skip


def _bert(path: Path) -> None:
    BertModel(
        BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    ).save_pretrained(path)


def _halved(path: Path) -> None:
    state = load_file(path / "model.safetensors")
    save_file(
        {k: v for k, v in state.items() if "mlp" not in k}, path / "model.safetensors", {"format": "pt"}
    )


def _without_tokenizer(path: Path) -> None:
    for file in path.glob("tokenizer*"):
        file.unlink()


def _with_more_words(path: Path) -> None:
    folder(path, [*WORDS, "more"])


def _without_end(path: Path) -> None:
    folder(path, pad_token="[PAD]")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_bert, "is a 'bert'. Expected a model of the GPT-2 family"),
        (_halved, "lacks 4 of the weights"),
        (_without_tokenizer, "no tokenizer"),
        (_with_more_words, "gives tokens up to number 8, but its embedding has 8 rows"),
        (_without_end, "without a token that ends a text"),
    ],
)
def test_a_folder_that_cannot_write_is_refused(
    change: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    change(folder(tmp_path))
    with pytest.raises(ModelError, match=f"task.decoder_model: .*{message}"):
        build_model(configured(tmp_path))


def test_no_folder_and_too_few_positions_are_refused(given: Path) -> None:
    with pytest.raises(ModelError, match='neither "tiny" nor a local folder'):
        build_model(configured("/nowhere"))
    with pytest.raises(ModelError, match=r"make 12 positions, but .* reads at most 10: lower them"):
        build_model(configured(given, prefix=8))


def test_replaced_labels_do_not_reach_what_is_written(given: Path) -> None:
    config = configured(given)
    model, batch = build_model(config).eval(), a_batch(config)
    nn.init.normal_(model.head.weight)
    other = replace(batch, label=torch.full((ROWS,), torch.nan))
    assert torch.equal(model.answer(batch), model.answer(other))
