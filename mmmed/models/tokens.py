"""The tokenizer: a local Hugging Face folder's own, or the tiny encoder's WordPiece vocabulary.

The tiny vocabulary (`vocab.txt`, see `vocabulary`) is built from public text alone and shipped with the
package: a vocabulary learnt from a site's notes would leak their words.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase

from mmmed.errors import ModelError

TINY = "tiny"
VOCABULARY = Path(__file__).with_name("vocab.txt")


@lru_cache(maxsize=4)
def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of the text encoder `name` ("tiny" or a local folder).

    Raises:
        ModelError: the folder holds no tokenizer.
    """
    if name == TINY:
        return BertTokenizer(vocab=str(VOCABULARY), do_lower_case=True)
    require_folder(name)
    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model.text: {name} holds no tokenizer that transformers can load: {error}"
        ) from error


def require_folder(name: str) -> None:
    """Raise ModelError unless `name` is a folder on this machine."""
    if not Path(name).is_dir():
        raise ModelError(
            f'model.text: {name!r} is neither "tiny" nor a local folder. '
            "Expected a folder with config.json, the weights and the tokenizer (models are never downloaded)"
        )
