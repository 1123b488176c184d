"""A transformers encoder from note tokens to feature tokens."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, BertConfig, BertModel, PreTrainedModel
from transformers.utils import logging

from mmmed.config import DataConfig, ModelConfig
from mmmed.data.batch import Input
from mmmed.errors import ModelError
from mmmed.models.lora import add_adapters
from mmmed.models.tokens import TINY, load_tokenizer, model_folder

logging.disable_progress_bar()  # its bar for loading weights would break ours


class TextEncoder(nn.Module):
    """Tokens (R, T) int64, present where they are no padding -> (R, T, width) float."""

    def __init__(self, encoder: PreTrainedModel, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.width = width

    def forward(self, given: Input) -> torch.Tensor:
        # attention over nothing is undefined: a missing note looks at its padding, and nobody at it
        mask = given.present | ~given.present.any(1, keepdim=True)
        seen = torch.nonzero(given.present.any(0))
        longest = int(seen[-1]) + 1 if len(seen) else 1  # what no record of the batch has is not computed
        encoded = self.encoder(input_ids=given.values[:, :longest], attention_mask=mask[:, :longest].long())
        features: torch.Tensor = encoded.last_hidden_state
        return F.pad(features, (0, 0, 0, given.values.shape[1] - longest))


def build_text_encoder(config: ModelConfig, data: DataConfig) -> TextEncoder:
    """Build the encoder that `config.text` names.

    Raises:
        ModelError: the local folder cannot be loaded, or reads fewer tokens than `data.text_tokens`.
    """
    encoder = _build(config, data)
    if config.trainable == "lora":
        add_adapters(encoder.encoder, config.lora_rank)
    return encoder


def _build(config: ModelConfig, data: DataConfig) -> TextEncoder:
    if config.text == TINY:
        bert = BertConfig(
            vocab_size=len(load_tokenizer(TINY)),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=data.text_tokens,
            type_vocab_size=1,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
        )
        return TextEncoder(BertModel(bert, add_pooling_layer=False), bert.hidden_size)
    folder = model_folder(config.text)
    try:
        # whatever it was saved in: rounding a sum to less would move it by more than one patient may
        encoder = AutoModel.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ModelError(f"model.text: {config.text} cannot be loaded: {error}") from error
    if getattr(encoder.config, "is_encoder_decoder", False):
        encoder = encoder.get_encoder()
    longest = getattr(encoder.config, "max_position_embeddings", data.text_tokens)
    if longest < data.text_tokens:
        raise ModelError(
            f"data.text_tokens is {data.text_tokens}, but {config.text} reads at most {longest}: lower it"
        )
    if hasattr(encoder, "pooler"):  # never used: an idle layer would only carry noise
        encoder.pooler = None
    _try(encoder, config, data)
    _check_vocabulary(encoder, config)
    return TextEncoder(encoder, encoder.config.hidden_size)


def _try(encoder: PreTrainedModel, config: ModelConfig, data: DataConfig) -> None:
    """Encode one note as long as they may be.

    Raises:
        ModelError: the model does not take it.
    """
    word = (getattr(encoder.config, "pad_token_id", None) or 0) + 1
    note = torch.full((1, data.text_tokens), word)
    try:
        with torch.no_grad():
            features = encoder.eval()(input_ids=note, attention_mask=torch.ones_like(note)).last_hidden_state
    except (ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise ModelError(
            f"model.text: {config.text} does not encode a note of {data.text_tokens} tokens ({error}). "
            "Lower data.text_tokens, or take a model that encodes text"
        ) from error
    if features.shape != (1, data.text_tokens, encoder.config.hidden_size):
        raise ModelError(
            f"model.text: {config.text} gives {tuple(features.shape)} and not one vector for each token"
        )


def _check_vocabulary(encoder: PreTrainedModel, config: ModelConfig) -> None:
    """Every token of the folder's tokenizer must have a row in the embedding: which of them a note holds is private.

    Raises:
        ModelError: the tokenizer is another model's.
    """
    rows = cast(nn.Embedding, encoder.get_input_embeddings()).num_embeddings
    highest = max(load_tokenizer(config.text).get_vocab().values())
    if highest >= rows:
        raise ModelError(
            f"model.text: the tokenizer of {config.text} gives tokens up to number {highest}, but its embedding has "
            f"{rows} rows (0 to {rows - 1}). Take the tokenizer that belongs to the weights"
        )
