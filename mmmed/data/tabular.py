"""Numbers and categories of a record (age, sex, laboratory values) as features between declared bounds.

Nothing is learnt from a site's table. Means and deviations of its patients would be computed from private data
outside the privacy accounting, would differ from site to site (one patient's value would shift every
other's features), and so would be released with the model. The run declares instead what is public anyway:
the range in which a number usually lies, such as a laboratory's reference range, and the categories there are.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from mmmed.config import DataConfig

PREFIX = "table."  # of the manifest's columns


def widths(data: DataConfig) -> list[int]:
    """Features of each column: 1 of a number, one a category. Numbers first, each sorted by name."""
    return [1] * len(data.numbers) + [len(data.categories[name]) for name in sorted(data.categories)]


def encode_table(records: pd.DataFrame, data: DataConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, sum(widths)) float32 features, zero where missing, and (N, columns) bool, whether each is present.

    A number becomes -1 at the low end of its declared range and 1 at the high end; beyond the range it goes on
    by the logarithm, so that a gross value stays apart without dwarfing the rest. A category is one-hot.
    """
    features, present = [], []
    for name in sorted(data.numbers):
        values = records[PREFIX + name].to_numpy(dtype=np.float64)
        features.append(_scaled(values, *data.numbers[name])[:, None])
        present.append(~np.isnan(values))
    for name in sorted(data.categories):
        codes = records[PREFIX + name].to_numpy(dtype=np.float64)
        features.append((codes[:, None] == np.arange(len(data.categories[name]))).astype(np.float64))
        present.append(~np.isnan(codes))
    seen = np.stack(present, axis=1)
    return torch.from_numpy(np.concatenate(features, axis=1)).float(), torch.from_numpy(seen)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    position = (np.nan_to_num(values, nan=(low + high) / 2) - low) / (high - low) * 2 - 1
    beyond = np.sign(position) * (1 + np.log(np.maximum(np.abs(position), 1)))
    return np.where(np.abs(position) > 1, beyond, position)
