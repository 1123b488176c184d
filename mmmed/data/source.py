"""Where the studies are: the generated hospitals, or a folder."""

from __future__ import annotations

from pathlib import Path

from mmmed import demo
from mmmed.errors import DataError

GENERATED = ("demo", "demo-signals", "demo-texts")  # also a sound and an ECG a study, or texts to be written


def locate(source: str) -> Path:
    """The folder of a data source; the generated hospitals are made at first use.

    Raises:
        DataError: no such folder.
    """
    if source in GENERATED:
        return demo.dataset(signals=source == GENERATED[1], texts=source == GENERATED[2])
    folder = Path(source)
    if not folder.is_dir():
        raise DataError(f"data.source: {source!r} is neither {' nor '.join(GENERATED)} nor a folder")
    return folder
