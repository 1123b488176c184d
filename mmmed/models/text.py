"""From note tokens to feature tokens: a transformers encoder, or one of `mmmed.models.words`."""

from __future__ import annotations

from importlib import import_module

import torch
from torch import nn

from mmmed._transformers import AutoModel, BertConfig, BertModel, PreTrainedModel
from mmmed.config import DataConfig, ModelConfig
from mmmed.data.batch import Input
from mmmed.errors import ModelError
from mmmed.modalities.text import WORDS, TextData, TextModel
from mmmed.models.local_folder import check_vocabulary, read_weights
from mmmed.models.lora import add_adapters
from mmmed.models.multimodal import Encoder
from mmmed.models.tokens import TINY, load_tokenizer, model_folder
from mmmed.models.words import Given, WordEncoder

_ROUNDING = 1e-4  # of the largest feature


class TextEncoder(nn.Module):
    """Tokens (R, W T) int64, present where they are no padding -> (R, W T, width) float.

    A note of several windows, W, of T tokens is encoded window by window; the fusion puts them together.
    """

    def __init__(self, encoder: PreTrainedModel, width: int, tokens: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.width, self.tokens = width, tokens

    def forward(self, given: Input) -> torch.Tensor:
        windows = zip(given.values.split(self.tokens, 1), given.present.split(self.tokens, 1), strict=True)
        return torch.cat([self._encode(tokens, present) for tokens, present in windows], dim=1)

    def _encode(self, tokens: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        # attention over nothing is undefined: a missing note looks at its padding, and nobody at it
        mask = present | ~present.any(1, keepdim=True)
        # All positions, also those that no note of the batch has: what is computed at padding (it may overflow) must
        # follow from a record's own note, never from how long the others' are.
        encoded = self.encoder(input_ids=tokens, attention_mask=mask.long())
        features: torch.Tensor = encoded.last_hidden_state
        return features


def build_text_encoder(config: ModelConfig, data: DataConfig) -> Encoder:
    """Build the encoder that `config.text` names.

    Raises:
        ModelError: the local folder cannot be loaded, or reads fewer tokens than `data.text_tokens`; a local file of
            public text cannot be read; or adapters are asked for where there is no transformer.
    """
    keys, tokens = config.of(TextModel), data.of(TextData).text_tokens
    if keys.text in WORDS:
        if data.of(TextData).text_windows > 1:
            raise ModelError(
                f"data.text_windows cuts a note for a transformer, and model.text = {keys.text!r} reads up to 512 "
                "tokens at once: set data.text_windows = 1 and raise data.text_tokens"
            )
        if config.trainable == "lora":
            raise ModelError(
                f'model.trainable = "lora" adapts a transformer, and model.text = {keys.text!r} has none. Choose '
                "another model.trainable, or another model.text"
            )
        module, _, name = WORDS[keys.text].partition(":")
        words: WordEncoder = getattr(import_module(module), name)
        return words(Given(load_tokenizer(keys.text), keys, tokens))
    encoder = _build(keys, tokens)
    if config.trainable == "lora":
        add_adapters(encoder.encoder, config.lora_rank)
    return encoder


def _build(config: TextModel, tokens: int) -> TextEncoder:
    if config.text == TINY:
        bert = BertConfig(
            vocab_size=len(load_tokenizer(TINY)),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=tokens,
            type_vocab_size=1,
            hidden_dropout_prob=config.text_dropout,
            attention_probs_dropout_prob=config.text_dropout,
        )
        return TextEncoder(BertModel(bert, add_pooling_layer=False), bert.hidden_size, tokens)
    encoder = read_weights(AutoModel, model_folder(config.text), "model.text", config.text)
    if getattr(encoder.config, "is_encoder_decoder", False):
        encoder = encoder.get_encoder()
    longest = getattr(encoder.config, "max_position_embeddings", tokens)
    if longest < tokens:
        raise ModelError(
            f"data.text_tokens is {tokens}, but {config.text} reads at most {longest}: lower it, and read long notes "
            "in more than one window (data.text_windows)"
        )
    if hasattr(encoder, "pooler"):  # never used: an idle layer would only carry noise
        encoder.pooler = None
    _try(encoder, config, tokens)
    check_vocabulary(encoder, load_tokenizer(config.text), "model.text", config.text)
    return TextEncoder(encoder, encoder.config.hidden_size, tokens)


def _try(encoder: PreTrainedModel, config: TextModel, tokens: int) -> None:
    """Encode made-up notes: one as long as they may be, and a short one without and with padding behind it.

    Raises:
        ModelError: the model does not take one, or what it gives for the short one depends on the padding.
    """
    padding = getattr(encoder.config, "pad_token_id", None) or 0
    words = getattr(encoder.config, "vocab_size", 2 + padding) - padding - 1
    note = (padding + 1 + torch.arange(tokens) % max(1, words))[None]
    whole = _encoded(encoder, config, note, torch.ones_like(note))
    if whole.shape != (1, tokens, encoder.config.hidden_size):
        raise ModelError(
            f"model.text: {config.text} gives {tuple(whole.shape)} and not one vector for each token"
        )
    length = tokens // 2
    there = torch.arange(tokens)[None] < length
    alone = _encoded(encoder, config, note[:, :length], torch.ones_like(note[:, :length]))
    padded = _encoded(encoder, config, note.where(there, padding), there.long())[:, :length]
    if float((alone - padded).abs().max()) > _ROUNDING * float(alone.abs().max()):
        raise ModelError(
            f"model.text: {config.text} ({type(encoder).__name__}) reads the padding behind a note: what it gives "
            "for it depends on data.text_tokens as well. Take another model"
        )


def _encoded(
    encoder: PreTrainedModel, config: TextModel, note: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    try:
        with torch.no_grad():
            features: torch.Tensor = encoder.eval()(input_ids=note, attention_mask=mask).last_hidden_state
            return features
    except (ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise ModelError(
            f"model.text: {config.text} does not encode a note of {note.shape[1]} tokens ({error}). "
            "Lower data.text_tokens, or take a model that encodes text"
        ) from error
