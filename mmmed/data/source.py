"""Where the studies are: the generated hospitals, or a folder."""

from __future__ import annotations

from pathlib import Path

from mmmed import demo
from mmmed.errors import DataError

DEMO = "demo"


def locate(source: str) -> Path:
    """The folder of a data source; the generated hospitals are made at first use.

    Raises:
        DataError: no such folder.
    """
    if source == DEMO:
        return demo.dataset()
    folder = Path(source)
    if not folder.is_dir():
        raise DataError(f'data.source: {source!r} is neither "{DEMO}" nor a folder')
    return folder
