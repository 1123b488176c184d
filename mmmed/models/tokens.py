"""The tokenizer: a local Hugging Face folder's own, or the WordPiece vocabulary of what is learnt from scratch.

The shipped vocabulary (`vocab.txt`, see `vocabulary`) is built from public text alone and shipped with the
package: a vocabulary learnt from a site's notes would leak their words.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from mmmed._transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase
from mmmed.errors import ModelError
from mmmed.modalities.text import WORDS
from mmmed.models.pretrained import MINILM, minilm_folder

TINY = "tiny"
VOCABULARY = Path(__file__).with_name("vocab.txt")


@lru_cache(maxsize=4)
def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of the text encoder `name` (one of those that are shipped, or a local folder).

    Raises:
        ModelError: the folder holds no tokenizer, or one that knows no word or cannot pad.
    """
    if name == TINY or name in WORDS:
        return BertTokenizer(vocab=str(VOCABULARY), do_lower_case=True)
    tokenizer = read_tokenizer(model_folder(name), f"model.text: {name}")
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"model.text: the tokenizer of {name} has no padding token, which notes of different lengths need. "
            "Set its pad_token and save it again"
        )
    tokenizer.padding_side = "right"  # where the encoder expects it, whatever the folder was used for
    return tokenizer


def read_tokenizer(folder: Path, named: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a local Hugging Face folder.

    Args:
        folder: of the model that it belongs to.
        named: the key that names the folder and its value, with which messages begin.

    Raises:
        ModelError: there is none, or one that knows no word.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"{named} holds no tokenizer that transformers can load: {error}") from error
    if set(tokenizer.get_vocab()) <= set(
        tokenizer.all_special_tokens
    ):  # made up by transformers from the config alone
        raise ModelError(
            f"{named} holds no tokenizer that knows a word. Copy the tokenizer's files (tokenizer.json, or "
            "vocab.txt and the like) into the folder from where the weights came"
        )
    return tokenizer


def tokenizer_digest(name: str) -> str:
    """Hex digest of the vocabulary of the text encoder `name`: which token has which number."""
    return vocabulary_digest(load_tokenizer(name))


def vocabulary_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hex digest of a vocabulary: which token has which number."""
    vocabulary = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(vocabulary.encode()).hexdigest()[:32]


def model_folder(name: str) -> Path:
    """Where the text encoder `name` ("minilm" or a local folder) is on this machine.

    Raises:
        ModelError: it is not here.
    """
    if name == MINILM:
        return minilm_folder()
    if not Path(name).is_dir():
        raise ModelError(
            f'model.text: {name!r} is neither "tiny", "minilm", {", ".join(WORDS)} nor a local folder. '
            "Expected a folder with config.json, the weights and the tokenizer (models are never downloaded)"
        )
    return Path(name)
