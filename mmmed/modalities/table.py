"""A table's values: numbers and categories of a record (age, sex, laboratory values), between declared bounds.

Nothing is learnt from a site's table. Means and deviations of its patients would be computed from private data
outside the privacy accounting, would differ from site to site (one patient's value would shift every
other's features), and so would be released with the model. The run declares instead what is public anyway:
the range in which a number usually lies, such as a laboratory's reference range, and the categories there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from mmmed.modalities.base import Modality, Reading
from mmmed.section import FrozenTable, Section, later

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

    from mmmed.config import DataConfig, ModelConfig, RunConfig
    from mmmed.data.batch import Input
    from mmmed.data.manifest import Manifest
    from mmmed.data.parts import Parts
    from mmmed.data.stored import Stored
    from mmmed.models.multimodal import Encoder

PREFIX = "table."  # of the manifest's columns


class TableData(Section):
    """Which columns are read, and what they may hold."""

    numbers: FrozenTable[tuple[float, float]] = Field(
        {}, description="columns of numbers, each with the range it usually lies in: {age = [0, 90]}"
    )
    categories: FrozenTable[tuple[str, ...]] = Field(
        {}, description='columns of categories, each with the values there are: {sex = ["F", "M"]}'
    )

    @model_validator(mode="after")
    def _declared(self) -> TableData:
        for column, (low, high) in self.numbers.items():
            if not -math.inf < low < high < math.inf:
                raise ValueError(f"numbers.{column} must be [low, high]. Found {[low, high]}")
        for column, values in self.categories.items():
            if len(values) < 2 or len(set(values)) != len(values):
                raise ValueError(
                    f"categories.{column} must be two or more distinct values. Found {list(values)}"
                )
        if both := sorted(set(self.numbers) & set(self.categories)):
            raise ValueError(f"column '{both[0]}' is in numbers and in categories: leave it in one")
        return self


class TableModel(Section):
    """The encoder of a table's values."""

    table: Literal["linear", "ft-transformer"] = later(
        "linear", description="a layer on each value alone, or a transformer over the columns"
    )


class Table(Modality):
    """Features (R, F) float32 of K columns and (R, K) bool, whether each is present. See `encode_table`."""

    name = "table"
    plural = "values"
    data_keys = TableData
    model_keys = TableModel
    column_keys = ("numbers", "categories")
    together = 256  # a few numbers each
    joins_fusion = True
    is_values = True

    def read(self, frame: pd.DataFrame, data: DataConfig, reading: Reading) -> pd.DataFrame:
        """Columns ``table.c``, float64: the number, or the index of the category; NaN where a cell holds none."""
        import pandas as pd

        keys = data.of(TableData)
        read = {PREFIX + column: _numbers(frame[column], reading) for column in keys.numbers}
        for column, allowed in keys.categories.items():
            read[PREFIX + column] = _categories(frame[column], allowed, reading)
        return pd.DataFrame(read, index=frame.index)

    def has(self, records: pd.DataFrame, data: DataConfig) -> pd.Series:
        return records[[PREFIX + column for column in self.columns(data)]].notna().any(axis=1)

    def open(self, manifest: Manifest, config: RunConfig, cache: Path) -> Stored:
        from mmmed.data.stored import Stored

        return Stored(*encode_table(manifest.records, config.data.of(TableData)))

    def make_up(self, config: RunConfig, total: int, rng: np.random.Generator) -> Stored:
        """Numbers within and beyond their ranges, one far outside, and every category."""
        import numpy as np
        import pandas as pd

        from mmmed.data.stored import Stored, some

        keys = config.data.of(TableData)
        columns: dict[str, Any] = {}
        for name, (low, high) in keys.numbers.items():
            columns[name] = low + (high - low) * rng.uniform(-0.5, 1.5, total)
            columns[name][2:3] = high + 1e9 * (high - low)
        for name, values in keys.categories.items():
            columns[name] = rng.permutation(np.arange(total) % len(values)).astype(np.float64)
        for column in columns.values():
            column[~some(total, rng)] = np.nan
        return Stored(*encode_table(pd.DataFrame(columns).add_prefix(PREFIX), keys))

    def parts(self, given: Input, cells: Mapping[str, str], config: RunConfig) -> Parts:
        """Each column that is present; without it, it is missing, as in a record that lacks it."""
        from mmmed.data.parts import Parts
        from mmmed.data.stored import Stored

        keys = config.data.of(TableData)
        columns = [*sorted(keys.numbers), *sorted(keys.categories)]
        there = given.present[0].nonzero()[:, 0]
        present = given.present.repeat(len(there), 1)
        present[range(len(there)), there] = False
        names = tuple(f"{columns[number]} = {cells[columns[number]]}" for number in there)
        return Parts("columns", Stored(given.values.expand(len(there), -1), present), names=names)

    def watched(self, given: Input, data: DataConfig) -> list[dict[str, float | str]]:
        """Each column's own number or category."""
        return [
            dict(_cells(v, p, data.of(TableData))) for v, p in zip(given.values, given.present, strict=True)
        ]

    def encoder(self, config: RunConfig) -> Encoder:
        from mmmed.models.table import FTTransformer, TableEncoder

        columns = widths(config.data.of(TableData))
        return TableEncoder(columns) if _linear(config.model) else FTTransformer(columns)

    def label(self, model: ModelConfig) -> str:
        return self.name if _linear(model) else model.of(TableModel).table

    def in_words(self, model: ModelConfig) -> str:
        return f"{'one layer' if _linear(model) else model.of(TableModel).table} for the table's values"


def _linear(model: ModelConfig) -> bool:
    return model.of(TableModel).table == "linear"


def widths(data: TableData) -> list[int]:
    """Number of features of each column: 1 of a number, one for each category. Numbers first, each sorted by name."""
    return [1] * len(data.numbers) + [len(data.categories[name]) for name in sorted(data.categories)]


def encode_table(records: pd.DataFrame, data: TableData) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, sum(widths)) float32 features, zero where missing, and (N, columns) bool, whether each is present.

    A number becomes -1 at the low end of its declared range and 1 at the high end; beyond the range it goes on
    by the logarithm, so that a gross value stays apart without dwarfing the rest. A category is one-hot.
    """
    import numpy as np
    import torch

    def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
        position = (np.nan_to_num(values, nan=(low + high) / 2) - low) / (high - low) * 2 - 1
        beyond = np.sign(position) * (1 + np.log(np.maximum(np.abs(position), 1)))
        return np.where(np.abs(position) > 1, beyond, position)

    features, present = [], []
    for name in sorted(data.numbers):
        values = records[PREFIX + name].to_numpy(dtype=np.float64)
        features.append(scaled(values, *data.numbers[name])[:, None])
        present.append(~np.isnan(values))
    for name in sorted(data.categories):
        codes = records[PREFIX + name].to_numpy(dtype=np.float64)
        features.append((codes[:, None] == np.arange(len(data.categories[name]))).astype(np.float64))
        present.append(~np.isnan(codes))
    seen = np.stack(present, axis=1)
    return torch.from_numpy(np.concatenate(features, axis=1)).float(), torch.from_numpy(seen)


def _cells(
    features: torch.Tensor, present: torch.Tensor, data: TableData
) -> Iterator[tuple[str, float | str]]:
    """The columns of one record that are present, each with what `encode_table` made its features from."""
    parts = features.split(widths(data))
    for name, part, there in zip(
        [*sorted(data.numbers), *sorted(data.categories)], parts, present, strict=True
    ):
        if not there:
            continue
        if name in data.categories:
            yield name, data.categories[name][int(part.argmax())]
        else:
            low, high = data.numbers[name]
            place = float(part)
            beyond = math.copysign(math.exp(min(abs(place) - 1, 700)), place)
            yield name, low + (high - low) * ((place if abs(place) <= 1 else beyond) + 1) / 2


def _numbers(values: pd.Series, reading: Reading) -> pd.Series:
    """float64, NaN where a cell is empty or holds no finite number, which is a problem."""
    import numpy as np
    import pandas as pd

    from mmmed.data.cells import rows_of, text_of

    texts = values.map(text_of)
    numbers = pd.to_numeric(texts.where(texts != ""), errors="coerce").astype("float64")
    bad = (numbers.isna() & (texts != "")) | np.isinf(numbers)
    if bad.any():
        reading.problem(
            f"{reading.path}: column '{values.name}' holds {texts[bad].iloc[0]!r} in {rows_of(bad)}, which is no "
            "number. Leave the cell empty where nothing was measured"
        )
    return numbers.mask(bad)


def _categories(values: pd.Series, allowed: tuple[str, ...], reading: Reading) -> pd.Series:
    """float64 indices into `allowed`, NaN where a cell is empty or holds another value, which is a problem."""
    from mmmed.data.cells import canonical, rows_of, text_of

    codes = {canonical(name): float(index) for index, name in enumerate(allowed)}
    texts = values.map(text_of)
    found = texts.map(lambda text: codes.get(canonical(text), math.nan)).astype("float64")
    bad = found.isna() & (texts != "")
    if bad.any():
        reading.problem(
            f"{reading.path}: column '{values.name}' holds {texts[bad].iloc[0]!r} in {rows_of(bad)}, outside "
            f"data.categories {list(allowed)}. Add it there, correct it, or leave the cell empty where it is not known"
        )
    return found
