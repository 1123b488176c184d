"""A site's records, its notes in the tokens that the run's text encoder reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmmed.config import RunConfig
from mmmed.data.loader import SiteData, load_site
from mmmed.data.manifest import Manifest
from mmmed.models.tokens import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def open_site_data(manifest: Manifest, config: RunConfig, cache: Path) -> SiteData:
    """Preprocess (or find in `cache`) the records of one site, tokenise its notes, split by patient.

    Raises:
        DataError: unreadable files, or a split that leaves a side without patients.
        ModelError: the text encoder's tokenizer is not here.
    """
    return load_site(manifest, config, run_tokenizer(config), cache)


def run_tokenizer(config: RunConfig) -> PreTrainedTokenizerBase | None:
    """The tokenizer of the run's text encoder; None for a run without notes.

    Raises:
        ModelError: it is not here.
    """
    return load_tokenizer(config.model.text) if config.data.text else None
