"""Modalities that are one column of a site's table: a text, or a file below the data folder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from mmmed.modalities.base import Modality, Reading

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

    from mmmed.config import DataConfig, RunConfig
    from mmmed.data.batch import Input
    from mmmed.data.form import Form
    from mmmed.data.manifest import Manifest
    from mmmed.data.parts import Parts
    from mmmed.data.stored import Stored

_LOOKED_AT = 256  # recordings at once, to see what is there of them


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
    """One file a record, kept as a row of numbers in a cache.

    Attributes:
        windows: an axis, into which an explanation takes a record apart.
        shown: how a person sees these, see `mmmed.data.parts.Parts`.
    """

    viewed = True
    pictured = True
    windows: ClassVar[int] = 8
    shown: ClassVar[Literal["map", "clip", "views"]] = "map"

    def fields(self, data: DataConfig) -> list[str]:
        """The columns of `Manifest.records` that hold its files, "" where there is none."""
        return [self.name]

    @abstractmethod
    def form(self, data: DataConfig) -> Form:
        """How a file becomes a row of the cache."""

    def parts(self, given: Input, cells: Mapping[str, str], config: RunConfig) -> Parts:
        """Windows of a picture (1, C, *shape), which fade to black."""
        import torch

        from mmmed.data.parts import Parts, faded, hats

        values = given.values[0]
        windows = tuple(hats(length, self.windows) for length in values.shape[1:])
        black = torch.zeros_like(values)
        plain = values.mean(0).numpy()
        return Parts(self.shown, faded(values, black, windows, given.present), windows=windows, plain=plain)

    def check(self, records: pd.DataFrame, data: DataConfig, reading: Reading) -> pd.DataFrame:
        records = super().check(records, data, reading)
        return records.assign(**{self.name: self.usable(records[self.name], self.name, reading)})

    def usable(self, files: pd.Series, what: str, reading: Reading) -> pd.Series:
        """The files, "" where one is not there or not below the data folder, which is a problem.

        Args:
            files: paths below the data folder, "" where there is none.
            what: a message calls them.
            reading: told of the problem.
        """
        from mmmed.data.cells import rows_of

        root, resolved = reading.root, reading.root.resolve()

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
                f"{reading.path}: {rows_of(outside)}: the {what} path leaves {root}. "
                "Use paths below the data folder"
            )
        if missing.any():
            first = files[missing].iloc[0]
            reading.problem(
                f"{reading.path}: {rows_of(missing)}: no {what} file such as '{first}' below {root}"
            )
        return files.mask(outside | missing, "")

    def open(self, manifest: Manifest, config: RunConfig, cache: Path) -> Stored:
        """Open the files, once those that a human rejected after approval are erased from the caches."""
        import torch

        from mmmed.data.features import forget_features
        from mmmed.data.image_approvals import ImageApprovals
        from mmmed.data.pixel_cache import Cache
        from mmmed.data.stored import Stored
        from mmmed.paths import feature_cache

        rejected = ImageApprovals.load(manifest.root).rejected()
        if Cache(cache).erase(self.form(config.data), rejected):
            forget_features(feature_cache())
        paths = [manifest.root / file if file else None for file in manifest.records[self.name]]
        rows = Cache(cache).open(paths, self.form(config.data), problem=manifest.noted)
        return Stored(rows, torch.from_numpy(rows.present)[:, None])

    def asked(self, cells: Mapping[str, str], config: RunConfig) -> Stored:
        return self.asked_file(cells.get(getattr(config.data, self.name), ""), config)

    def asked_file(self, file: str, config: RunConfig) -> Stored:
        """The one record of a file, "" for none."""
        import torch

        from mmmed.data.form import asked_rows
        from mmmed.data.stored import Stored

        rows = asked_rows(self.form(config.data), Path(file) if file else None)
        return Stored(rows, torch.tensor([[bool(file)]]))

    def make_up(self, config: RunConfig, total: int, rng: np.random.Generator) -> Stored:
        import torch

        from mmmed.data.stored import DrawnRows, Stored, some

        present = some(total, rng)
        rows = DrawnRows(self.form(config.data).shape, present, int(rng.integers(1 << 32)))
        return Stored(rows, torch.from_numpy(present)[:, None])


class Recordings(Files):
    """A recording over time, (R, channels, length) float32 as `mmmed.data.recording` says; one flag a span of it.

    Attributes:
        span: samples or frames of a recording that are one token, by which its form's length can be divided.
    """

    span: ClassVar[int]
    windows = 24
    pictured = False

    @abstractmethod
    def step(self, data: DataConfig) -> float:
        """Seconds from one column of a recording to the next."""

    @abstractmethod
    def louder(self, values: torch.Tensor, uniform: float) -> torch.Tensor:
        """A recording (channels, length) of another loudness, or amplitude, by a uniform number in [0, 1)."""

    def open(self, manifest: Manifest, config: RunConfig, cache: Path) -> Stored:
        import numpy as np
        import torch

        from mmmed.data.recording import recorded_spans
        from mmmed.data.stored import Stored

        rows = super().open(manifest, config, cache).values
        spans = self.form(config.data).shape[-1] // self.span
        present = [torch.empty(0, spans, dtype=torch.bool)]
        for start in range(0, len(manifest.records), _LOOKED_AT):
            some = np.arange(start, min(start + _LOOKED_AT, len(manifest.records)))
            present.append(recorded_spans(rows[some], self.span))
        return Stored(rows, torch.cat(present))

    def asked(self, cells: Mapping[str, str], config: RunConfig) -> Stored:
        import torch

        from mmmed.data.recording import recorded_spans
        from mmmed.data.stored import Stored

        rows = super().asked(cells, config).values
        assert isinstance(rows, torch.Tensor)
        return Stored(rows, recorded_spans(rows, self.span))

    def make_up(self, config: RunConfig, total: int, rng: np.random.Generator) -> Stored:
        """Recordings of any length and loudness; the first is as long as one can be."""
        import numpy as np
        import torch

        from mmmed.data.recording import recorded_spans
        from mmmed.data.stored import Stored, some

        channels, length = self.form(config.data).shape
        there, ends = some(total, rng), rng.integers(1, length + 1, total)
        ends[:1] = length
        low, high = rng.uniform(0.01, 1, (2, total, 1, 1))
        values = low + (high - low) * rng.random((total, channels, length), dtype=np.float32)
        values *= there[:, None, None] & (np.arange(length) < ends[:, None])[:, None]
        drawn = torch.from_numpy(values.astype(np.float32))
        return Stored(drawn, recorded_spans(drawn, self.span))

    def parts(self, given: Input, cells: Mapping[str, str], config: RunConfig) -> Parts:
        """Windows of time over what was recorded, which fade into each channel's mean; what was not, stays so."""
        import torch

        from mmmed.data.parts import Parts, faded, hats

        values, recorded = given.values[0], given.values[0] > 0
        length = int(recorded.any(0).nonzero().max()) + 1
        window = torch.nn.functional.pad(hats(length, self.windows), (0, values.shape[1] - length))
        mean = values.sum(1, keepdim=True) / recorded.sum(1, keepdim=True).clamp(min=1)
        behind = torch.where(recorded, mean, values)
        return Parts(
            "curve",
            faded(values, behind, (window,), given.present),
            windows=(window[:, :length],),
            plain=(values.sum(0) / recorded.sum(0).clamp(min=1))[:length].numpy(),
            step=self.step(config.data),
        )

    def view(self, given: Input, uniforms: np.ndarray) -> Input:
        """Each recording begun at another of its times, its beginning put behind its end, and louder or softer.

        When a recording begins is chance, and what is recorded stays as long as it was.
        """
        from dataclasses import replace

        values = given.values.clone()
        for row, (start, gain) in enumerate(uniforms[:, :2].tolist()):
            recorded = values[row].any(0).nonzero()
            if len(recorded):
                end = int(recorded[-1]) + 1
                values[row, :, :end] = self.louder(values[row, :, :end].roll(-int(start * end), 1), gain)
        return replace(given, values=values)
