"""Where mmmed keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_home() -> Path:
    """`$MMMED_HOME`, else ``~/.cache/mmmed``: generated hospitals and preprocessed images."""
    home = os.environ.get("MMMED_HOME")
    return Path(home) if home else Path.home() / ".cache" / "mmmed"


def image_cache() -> Path:
    """Folder of preprocessed images that are nobody's secret: generated, public, or a researcher's own."""
    return cache_home() / "images"


def feature_cache() -> Path:
    """Folder of the features of frozen encoders, of whatever data."""
    return cache_home() / "features"
