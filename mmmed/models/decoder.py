"""From what a fusion makes of a study to a text: a causal language model that reads it as a prefix.

The fusion's head gives vectors that stand before the text's own tokens, as in ClipCap (Mokady et al. 2021, arXiv
2111.09734); with a language model whose weights are given and stay as they are, as in Frozen (Tsimpoukelli et al. 2021,
arXiv 2106.13884). So any fusion of any modalities can write. The shapes use r records, p vectors of the prefix, t
tokens of a text, v tokens of the vocabulary, d = width, b beams.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mmmed._transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerBase,
)
from mmmed.data.batch import Batch
from mmmed.errors import ModelError
from mmmed.models.local_folder import check_vocabulary, read_weights
from mmmed.models.lora import add_adapters
from mmmed.models.multimodal import MultimodalModel
from mmmed.models.tokens import TINY, load_tokenizer, read_tokenizer

_KEY = "task.decoder_model"
_HEAD = 32  # width of an attention's head
_FAMILY = "gpt2"
_NO_DROPOUT: dict[str, Any] = {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}


@dataclass(frozen=True)
class Spelling:
    """How a decoder's texts are spelt in tokens.

    A text is its tokens and an end, which also stands wherever nothing follows.

    Attributes:
        tokenizer: the decoder's.
        end: number of the token that ends a text.
        size: how many tokens the decoder knows, v.
    """

    tokenizer: PreTrainedTokenizerBase
    end: int
    size: int

    def encode(self, texts: list[str], length: int) -> np.ndarray:
        """(N, length) int64 tokens of N texts; what is longer is cut."""
        tokens = np.full((len(texts), length), self.end, dtype=np.int64)
        for row, text in zip(tokens, texts, strict=True):
            ids = self.tokenizer(text, add_special_tokens=False, truncation=True, max_length=length)[
                "input_ids"
            ]
            ids = [one for one in ids if one != self.end]  # as words, the name of the end is none
            row[: len(ids)] = ids
        return tokens

    def decode(self, tokens: np.ndarray) -> list[str]:
        """(N, t) tokens, of any numeric type -> N texts."""
        ends = np.append(tokens, np.full((len(tokens), 1), self.end), axis=1) == self.end
        rows = (row[:end] for row, end in zip(tokens.astype(np.int64), ends.argmax(axis=1), strict=True))
        return [str(self.tokenizer.decode(row, skip_special_tokens=True)).strip() for row in rows]


@lru_cache(maxsize=4)
def spelling(decoder: str) -> Spelling:
    """The spelling of the decoder of this name: "tiny", or a local Hugging Face folder.

    Raises:
        ModelError: no such folder, no model of the GPT-2 family, or no tokenizer that can end a text.
    """
    if decoder == TINY:
        tokenizer = load_tokenizer(TINY)
        return Spelling(tokenizer, cast(int, tokenizer.sep_token_id), len(tokenizer))
    folder, named = Path(decoder), f"{_KEY}: {decoder}"
    if not folder.is_dir():
        raise ModelError(
            f'{_KEY}: {decoder!r} is neither "tiny" nor a local folder. Expected a folder with config.json, the '
            "weights and the tokenizer (models are never downloaded)"
        )
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"{named} cannot be loaded: {error}") from error
    if config.model_type != _FAMILY:
        raise ModelError(f"{named} is a {config.model_type!r}. Expected a model of the GPT-2 family")
    tokenizer = read_tokenizer(folder, named)
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    if end is None:
        raise ModelError(
            f"{named} has a tokenizer without a token that ends a text. Set its eos_token and save it again"
        )
    return Spelling(tokenizer, end, config.vocab_size)


class Decoder(nn.Module):
    """A causal language model that continues a prefix of vectors.

    Its input and output embeddings are one parameter, as in GPT-2; a patient's gradient is the sum over both uses.

    Args:
        language: the model.
        prefix: vectors of the prefix, p.
        length: tokens of a text, t.
        end: the token that ends a text.
        beams: how many texts are kept while one is searched for; 1 is greedy.
        is_given: whether its weights were learnt elsewhere.
    """

    def __init__(
        self, language: GPT2LMHeadModel, *, prefix: int, length: int, end: int, beams: int, is_given: bool
    ) -> None:
        super().__init__()
        self.language = language
        self.prefix, self.length, self.end, self.beams = prefix, length, end, beams
        self.is_given = is_given

    @property
    def reads(self) -> int:
        """Numbers of a prefix, p d."""
        return self.prefix * self.language.config.n_embd

    def forward(self, prefix: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Log-odds of each token of a text, given those before it (teacher forcing).

        Args:
            prefix: (R, p d), of each record.
            text: (R, t) int64, the true tokens.

        Returns:
            (R, t v).
        """
        before = torch.cat([self._vectors(prefix), self._embedding(text[:, :-1])], dim=1)
        told = self.language(inputs_embeds=before, use_cache=False, logits_to_keep=self.length)
        logits: torch.Tensor = told.logits
        return logits.flatten(1)

    @torch.no_grad()
    def write(self, prefix: torch.Tensor) -> torch.Tensor:
        """The text of each record that is most probable of those that the search keeps.

        All t steps are taken whatever is written: how long a text is shows in no time.

        Args:
            prefix: (R, p d).

        Returns:
            (R, t) int64 tokens.
        """
        rows, beams = len(prefix), self.beams
        total = prefix.new_full((rows, beams), -torch.inf)
        total[:, 0] = 0.0  # the beams begin as one
        first = beams * torch.arange(rows, device=prefix.device)[:, None]
        texts = torch.empty(rows * beams, 0, dtype=torch.int64, device=prefix.device)
        ended = torch.zeros(rows * beams, dtype=torch.bool, device=prefix.device)
        given, past = self._vectors(prefix).repeat_interleave(beams, dim=0), None
        for _ in range(self.length):
            told = self.language(inputs_embeds=given, past_key_values=past, use_cache=True, logits_to_keep=1)
            log_p = F.log_softmax(told.logits[:, -1], dim=-1).to(total.dtype)  # [r b, v]
            log_p[ended] = -torch.inf
            log_p[ended, self.end] = 0.0
            sums = total[..., None] + log_p.view(rows, beams, -1)
            total, chosen = sums.flatten(1).topk(beams)  # the best first
            size = log_p.shape[1]
            parents, token = (first + chosen // size).flatten(), (chosen % size).flatten()
            texts = torch.cat([texts[parents], token[:, None]], dim=1)
            ended = ended[parents] | (token == self.end)
            given, past = self._embedding(token[:, None]), told.past_key_values
            if beams > 1:
                past.reorder_cache(parents)
        return texts.view(rows, beams, -1)[:, 0]

    def _vectors(self, prefix: torch.Tensor) -> torch.Tensor:
        return prefix.view(len(prefix), self.prefix, -1)

    def _embedding(self, tokens: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self.language.transformer.wte(tokens)
        return embedded


def build_decoder(
    name: str, *, prefix: int, length: int, beams: int, width: int, layers: int, lora_rank: int
) -> Decoder:
    """The decoder of this name. Without weights of its own it draws on torch's random state.

    Args:
        name: "tiny", or a local Hugging Face folder of the GPT-2 family.
        prefix, length, beams: see `Decoder`.
        width, layers: of "tiny".
        lora_rank: of adapters in a folder's attention layers; 0 for none.

    Raises:
        ModelError: see `spelling`, `read_weights`; or the model reads too few tokens.
    """
    spelt, positions, is_given = spelling(name), prefix + length - 1, name != TINY
    language: Any
    if is_given:
        language = read_weights(AutoModelForCausalLM, Path(name), _KEY, name, **_NO_DROPOUT)
        check_vocabulary(language, spelt.tokenizer, _KEY, name)
        if language.config.n_positions < positions:
            raise ModelError(
                f"task.prefix and task.tokens make {positions} positions, but {name} reads at most "
                f"{language.config.n_positions}: lower them"
            )
        if lora_rank:
            add_adapters(language, lora_rank)
    else:
        language = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=spelt.size, n_positions=positions, n_embd=width, n_layer=layers, n_head=width // _HEAD,
                bos_token_id=spelt.end, eos_token_id=spelt.end, **_NO_DROPOUT,
            )
        )  # fmt: skip
    return Decoder(language, prefix=prefix, length=length, end=spelt.end, beams=beams, is_given=is_given)


class WritingModel(MultimodalModel):
    """A fusion's model whose outputs are a prefix, and the decoder that continues it. See `writing`."""

    decoder: Decoder

    def forward(self, batch: Batch, **centring: bool) -> torch.Tensor:
        """(R, t v) log-odds of each token of the labels, given the study and the label's tokens before it."""
        prefix: torch.Tensor = super().forward(batch, **centring)
        return prefix if centring else self.decoder(prefix, batch.label)

    def answer(self, batch: Batch) -> torch.Tensor:
        """Outputs that say the text that the decoder writes, and no other."""
        text = self.decoder.write(super().forward(batch))
        return F.one_hot(text, self.decoder.language.config.vocab_size).flatten(1).float()


@lru_cache
def writing(fusion: type[MultimodalModel]) -> Callable[..., WritingModel]:
    """The class of a fusion's models that write; an instance needs its `decoder`."""
    return type(f"Writing{fusion.__name__}", (WritingModel, fusion), {})
