"""Text: the clinical note of a record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from mmmed.modalities.columns import Column
from mmmed.section import Section, later

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

    from mmmed.check.result import CheckResult
    from mmmed.config import DataConfig, ModelConfig, RunConfig
    from mmmed.data.batch import Input
    from mmmed.data.manifest import Manifest
    from mmmed.data.parts import Parts
    from mmmed.data.stored import Stored
    from mmmed.models.multimodal import Encoder

WORDS = {
    "bag-of-words": "mmmed.models.words.bag:BagOfWords",
    "tf-idf": "mmmed.models.words.bag:TfIdf",
    "word-mean": "mmmed.models.words.mean:WordMean",
    "word-cnn": "mmmed.models.words.cnn:WordCNN",
    "word-lstm": "mmmed.models.words.recurrent:WordLSTM",
    "word-bilstm": "mmmed.models.words.recurrent:WordBiLSTM",
    "word-gru": "mmmed.models.words.recurrent:WordGRU",
    "word-bigru": "mmmed.models.words.recurrent:WordBiGRU",
}
"""Encoders without a transformer, each a `mmmed.models.words.WordEncoder`."""

_SHIPPED = ("tiny", "minilm", *WORDS)  # any other encoder is a folder
_WORDS = ("no", "the", "a", "is", "and", "with", "of", "lesion", "left", "right", "small", "large")


class TextData(Section):
    """Which column holds notes, and how they are read."""

    text: str = Field("text", description='column: the clinical note; "" for no text')
    text_tokens: int = Field(
        64, ge=8, le=512, description="tokens of a note that are read, or of a window of it"
    )
    text_windows: int = later(
        1,
        ge=1,
        le=16,
        description="windows of text_tokens, one behind the other, in which a long note is read",
    )

    @property
    def tokens_read(self) -> int:
        """Tokens of a note that are read in all its windows."""
        return self.text_tokens * self.text_windows


class TextModel(Section):
    """The encoder of notes."""

    text: str = Field(
        "tiny",
        description='"tiny", "minilm" (pretrained; extra `pretrained`), a local Hugging Face folder, or without a '
        f"transformer {', '.join(WORDS)}",
    )
    text_dropout: float = Field(0.0, ge=0, lt=1, description="of encoders that are learnt from scratch")
    text_public: str = later(
        "",
        description='local file of public text, one note a line, of whose words "tf-idf" counts how rare they are',
    )

    @model_validator(mode="after")
    def _text_public(self) -> TextModel:
        if self.text == "tf-idf" and not self.text_public:
            raise ValueError(
                'text = "tf-idf" needs text_public, a local file of public text: how rare words are is never counted '
                'in patients\' notes. Without such a file take text = "bag-of-words"'
            )
        return self


class Text(Column):
    """Tokens (R, text_windows text_tokens) int64, each present or padding."""

    name = "text"
    plural = "notes"
    data_keys = TextData
    model_keys = TextModel
    column_keys = ("text",)
    adapters = True
    pretrained = "model.text = 'minilm'"

    def open(self, manifest: Manifest, config: RunConfig, cache: Path) -> Stored:
        return _stored(list(manifest.records["text"]), config)

    def asked(self, cells: Mapping[str, str], config: RunConfig) -> Stored:
        from mmmed.data.cells import text_of

        return _stored([text_of(cells.get(config.data.of(TextData).text, ""))], config)

    def make_up(self, config: RunConfig, total: int, rng: np.random.Generator) -> Stored:
        """The first note is as long as one can be and holds every special token and the one of the highest number."""
        import numpy as np
        import torch

        from mmmed.data.stored import Stored, some
        from mmmed.models.tokens import load_tokenizer

        there, length = some(total, rng), config.data.of(TextData).tokens_read
        words = [" ".join(rng.choice(_WORDS, rng.integers(1, length + 1))) for _ in there]
        notes = [note if present else "" for note, present in zip(words, there, strict=True)]
        tokens, mask = _tokens(notes, config)
        mask &= torch.from_numpy(there)[:, None]
        tokenizer = load_tokenizer(config.model.of(TextModel).text)
        padding, known = tokenizer.pad_token_id, np.array(sorted(tokenizer.get_vocab().values()))
        rare = [*(token for token in tokenizer.all_special_ids if token != padding), known[-1]]
        longest = np.concatenate([rare, rng.choice(known, length)])[:length]
        tokens[0] = torch.from_numpy(np.where(longest == padding, known[-1], longest))
        mask[0] = True
        return Stored(tokens, mask)

    def parts(self, given: Input, cells: Mapping[str, str], config: RunConfig) -> Parts:
        """Each word that is read, with the white space behind it; without it, the note is read as if it were not there.

        So this rests on nothing inside the encoder, and a word counts with what it does to its neighbours ("no").
        """
        from mmmed.data.parts import Parts

        words = re.findall(r"\s*\S+\s*", cells[config.data.of(TextData).text])
        read = words[: _words_read(words, int(given.present.sum()), config)]
        notes = ["".join(read[:number] + read[number + 1 :]) for number in range(len(read))]
        return Parts("words", _stored(notes, config), names=tuple(read), rest="".join(words[len(read) :]))

    def encoder(self, config: RunConfig) -> Encoder:
        from mmmed.models.text import build_text_encoder

        return build_text_encoder(config.model, config.data)

    def from_scratch(self, model: ModelConfig) -> bool:
        text = model.of(TextModel).text
        return text == "tiny" or text in WORDS

    def given(self, model: ModelConfig) -> str:
        keys = model.of(TextModel)
        public = f", model.text_public = {keys.text_public!r}" if keys.text_public else ""
        return f"model.text = {keys.text!r}{public}"

    def further_digests(self, config: RunConfig) -> dict[str, str]:
        from mmmed.models.tokens import tokenizer_digest

        return {"tokenizer": tokenizer_digest(config.model.of(TextModel).text)}

    def label(self, model: ModelConfig) -> str:
        text = model.of(TextModel).text
        return text if text in _SHIPPED else f"text:{text}"

    def in_words(self, model: ModelConfig) -> str:
        return f"{model.of(TextModel).text} for text"

    def facts(self, records: pd.DataFrame) -> dict[str, pd.Series]:
        import numpy as np

        words = np.log1p(records["text"].map(lambda text: len(text.split())))
        return {"words": words, "has_note": (records["text"] != "").astype(float)}

    def measure(
        self, records: pd.DataFrame, table: pd.DataFrame, root: Path, data: DataConfig, result: CheckResult
    ) -> None:
        from mmmed.check.measures import measure_texts

        measure_texts(records, result)


def _stored(texts: list[str], config: RunConfig) -> Stored:
    """Of an empty note nothing is present, not even the tokens that begin and end one."""
    import torch

    from mmmed.data.stored import Stored

    tokens, mask = _tokens(texts, config)
    return Stored(tokens, mask & torch.tensor([bool(text) for text in texts])[:, None])


def _words_read(words: list[str], tokens: int, config: RunConfig) -> int:
    """How many words of a note any of its first `tokens` tokens is of."""
    texts = ["".join(words[: number + 1]) for number in range(min(len(words), tokens))]
    held = _tokens(texts, config)[1].sum(1)
    return int((held < tokens).sum()) + 1 if len(texts) and int(held[-1]) >= tokens else len(texts)


def _tokens(texts: list[str], config: RunConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, tokens) int64 and (N, tokens) bool, False at padding, by the run's own tokenizer.

    Of several windows each begins and ends with the special tokens that a note has.
    """
    import torch

    from mmmed.models.tokens import load_tokenizer

    keys, tokenizer = config.data.of(TextData), load_tokenizer(config.model.of(TextModel).text)
    encoded = tokenizer(
        texts,
        padding="max_length",
        truncation=True,
        max_length=keys.text_tokens,
        return_overflowing_tokens=keys.text_windows > 1,
        return_tensors="pt",
    )
    tokens, mask = encoded["input_ids"], encoded["attention_mask"].bool()
    if keys.text_windows == 1:
        return tokens, mask
    note = encoded["overflow_to_sample_mapping"]  # of each window, in order
    window = torch.arange(len(note)) - torch.searchsorted(note, note)
    read = window < keys.text_windows
    every = torch.full((len(texts), keys.text_windows, keys.text_tokens), tokenizer.pad_token_id)
    there = torch.zeros(every.shape, dtype=torch.bool)
    every[note[read], window[read]] = tokens[read]
    there[note[read], window[read]] = mask[read]
    return every.flatten(1), there.flatten(1)
