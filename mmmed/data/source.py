"""Where the studies are: the generated hospitals, or a folder."""

from __future__ import annotations

from pathlib import Path

from mmmed import demo
from mmmed.errors import DataError

GENERATED = ("demo", "demo-signals")  # the second with a sound and an ECG a study


def locate(source: str) -> Path:
    """The folder of a data source; the generated hospitals are made at first use.

    Raises:
        DataError: no such folder.
    """
    if source in GENERATED:
        return demo.dataset(signals=source == GENERATED[1])
    folder = Path(source)
    if not folder.is_dir():
        raise DataError(f"data.source: {source!r} is neither {' nor '.join(GENERATED)} nor a folder")
    return folder
