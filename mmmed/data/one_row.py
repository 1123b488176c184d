"""A study that a model is asked about, as a table of one record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from mmmed.config import RunConfig
from mmmed.data.manifest import Manifest, refuse
from mmmed.data.stored import Stored
from mmmed.modalities.base import Modality, Reading

_TABLE = Path("study")


def asked(modality: Modality, cells: Mapping[str, str], config: RunConfig) -> Stored:
    """`Modality.asked`, by what reads a site's table; in memory, and nothing is kept."""
    frame = pd.DataFrame({column: [cells.get(column, "")] for column in modality.columns(config.data)})

    def problem(told: str) -> None:
        refuse(told.removeprefix(f"{_TABLE}: "))

    with TemporaryDirectory(prefix="mmmed-study-") as temporary:
        reading = Reading(Path(temporary), _TABLE, problem)
        records = modality.read(frame, config.data, reading)
        if modality.has(records, config.data).any():  # a study may be without
            records = modality.check(records, config.data, reading)
        stored = modality.open(Manifest(Path(temporary), records, problem=problem), config, Path(temporary))
        given = stored[np.zeros(1, dtype=np.int64)]
        return Stored(given.values.clone(), given.present)
