"""Weights in a local Hugging Face folder: nothing is ever downloaded, and no code of the folder is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn

from mmmed._transformers import PreTrainedModel, PreTrainedTokenizerBase
from mmmed.errors import ModelError


def read_weights(auto: Any, folder: Path, key: str, name: str, **config: Any) -> Any:
    """The model in a folder, a `PreTrainedModel` with all of its weights in float32.

    Args:
        auto: the class of transformers that reads it, such as `AutoModel`.
        folder: of the model.
        key: the configuration's key that names the folder, for messages.
        name: the folder as it is named there.
        config: values of the model's own configuration that are to be others than the folder says.

    Raises:
        ModelError: it cannot be loaded, or weights are missing that would be random.
    """
    try:
        # whatever it was saved in: rounding a sum to less would move it by more than one patient may
        model, loaded = auto.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, dtype=torch.float32, use_safetensors=True,
            output_loading_info=True, **config,
        )  # fmt: skip
    except SafetensorError as error:
        raise ModelError(
            f"{key}: a weight file of {name} is cut short or damaged ({error}). Copy it again"
        ) from error
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ModelError(f"{key}: {name} cannot be loaded: {error}") from error
    if absent := sorted(one for one in loaded["missing_keys"] if not one.startswith("pooler.")):
        raise ModelError(
            f"{key}: {name} lacks {len(absent)} of the weights of its architecture, '{absent[0]}' among them: they "
            "would be random. Copy all weight files of the model"
        )
    return model


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, key: str, name: str) -> None:
    """Every token of the folder's tokenizer must have a row in the embedding: which of them a text holds is private.

    Raises:
        ModelError: the tokenizer is another model's.
    """
    rows = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise ModelError(
            f"{key}: the tokenizer of {name} gives tokens up to number {highest}, but its embedding has "
            f"{rows} rows (0 to {rows - 1}). Take the tokenizer that belongs to the weights"
        )
