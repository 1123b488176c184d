"""Modalities that are one column of a site's table: a text, or a file below the data folder."""

from __future__ import annotations

from abc import abstractmethod
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mmmed.modalities.base import Modality, Reading

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from mmmed.config import DataConfig, RunConfig
    from mmmed.data.manifest import Manifest
    from mmmed.data.pixel_cache import Form
    from mmmed.data.stored import Stored


class Column(Modality):
    """One column of text, which the key of the modality's own name names; empty cells are "" in the manifest."""

    def read(self, frame: pd.DataFrame, data: DataConfig, reading: Reading) -> pd.DataFrame:
        import pandas as pd

        from mmmed.data.cells import text_of

        column = getattr(data, self.name)
        texts = frame[column].map(text_of) if column else pd.Series("", frame.index)
        return pd.DataFrame({self.name: texts})

    def has(self, records: pd.DataFrame, data: DataConfig) -> pd.Series:
        return records[self.name] != ""

    def check(self, records: pd.DataFrame, data: DataConfig, reading: Reading) -> pd.DataFrame:
        if not self.has(records, data).any():
            reading.problem(
                f"{reading.path}: column '{getattr(data, self.name)}' is empty in every row: no {self.plural} "
                f'anywhere. Name another column, or set data.{self.name} = "" to train without'
            )
        return records

    def facts(self, records: pd.DataFrame) -> dict[str, pd.Series]:
        return {f"has_{self.name}": (records[self.name] != "").astype(float)}


class Files(Column):
    """One file a record, kept as a row of numbers in a cache."""

    viewed = True

    @abstractmethod
    def form(self, data: DataConfig) -> Form:
        """How a file becomes a row of the cache."""

    def check(self, records: pd.DataFrame, data: DataConfig, reading: Reading) -> pd.DataFrame:
        from mmmed.data.cells import rows_of

        records = super().check(records, data, reading)
        files, root, resolved = records[self.name], reading.root, reading.root.resolve()

        @cache
        def folder(path: Path) -> Path:  # there are far fewer than files
            return path.resolve()

        def leaves(file: str) -> bool:
            path = resolved / file
            try:
                if path.is_symlink() or path.name in ("", ".."):
                    return bool(file) and not path.resolve().is_relative_to(resolved)
                return bool(file) and not folder(path.parent).is_relative_to(resolved)
            except (OSError, ValueError):  # no name of a file at all: a run may name any column
                return False

        def lacks(file: str) -> bool:
            try:
                return bool(file) and not (root / file).is_file()
            except (OSError, ValueError):
                return True

        outside, missing = (
            files.map(wrong).astype(bool) for wrong in (leaves, lacks)
        )  # (bool also of no row)
        if outside.any():
            reading.problem(
                f"{reading.path}: {rows_of(outside)}: the {self.name} path leaves {root}. "
                "Use paths below the data folder"
            )
        if missing.any():
            first = files[missing].iloc[0]
            reading.problem(
                f"{reading.path}: {rows_of(missing)}: no {self.name} file such as '{first}' below {root}"
            )
        return records.assign(**{self.name: files.mask(outside | missing, "")})

    def open(self, manifest: Manifest, config: RunConfig, cache: Path) -> Stored:
        import torch

        from mmmed.data.pixel_cache import Cache
        from mmmed.data.stored import Stored

        paths = [manifest.root / file if file else None for file in manifest.records[self.name]]
        rows = Cache(cache).open(paths, self.form(config.data), problem=manifest.noted)
        return Stored(rows, torch.from_numpy(rows.present)[:, None])

    def make_up(self, config: RunConfig, total: int, rng: np.random.Generator) -> Stored:
        import torch

        from mmmed.data.stored import DrawnRows, Stored, some

        present = some(total, rng)
        rows = DrawnRows(self.form(config.data).shape, present, int(rng.integers(1 << 32)))
        return Stored(rows, torch.from_numpy(present)[:, None])
