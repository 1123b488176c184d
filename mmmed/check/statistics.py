"""How numbers are described: their spread, what stands out, a histogram."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mmmed.check.result import CheckResult, Plot

_BINS = 12
_FAR_OUT = 3.0


def describe(section: str, frame: pd.DataFrame, plotted: Sequence[str], result: CheckResult) -> pd.Series:
    """Spread and outliers of every number of a sample of files.

    Args:
        section: heading of the report that facts and plots belong to.
        frame: one row a file, one column a measure, all numbers.
        plotted: columns of which a histogram is drawn.
        result: takes facts and plots.

    Returns:
        Why each file stands out, as text by the index of `frame`; "" where it does not.
    """
    odd = {column: is_outlier(frame[column]) for column in frame.columns}
    result.facts.setdefault(section, []).extend(
        [
            *((f"{column}: 5 %, median, 95 %", quantiles(frame[column])) for column in frame.columns),
            *((f"outliers in {column}", f"{odd[column].mean():.1%}") for column in frame.columns),
        ]
    )
    result.plots.setdefault(section, []).extend(histogram(column, frame[column]) for column in plotted)
    return pd.Series(
        [
            ", ".join(f"{column} {short(frame[column][i])}" for column in frame.columns if odd[column][i])
            for i in frame.index
        ],
        index=frame.index,
        dtype=object,
    )


def quantiles(values: pd.Series) -> str:
    """5 %, median and 95 %."""
    return ", ".join(map(short, values.quantile([0.05, 0.5, 0.95])))


def short(value: float) -> str:
    """A number in three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def histogram(title: str, values: pd.Series) -> Plot:
    """Shares between the 1st and 99th percentile; what lies outside counts to the ends."""
    low, high = values.quantile([0.01, 0.99])
    shares, edges = np.histogram(values.clip(low, high), bins=_BINS)
    names = map(short, edges[:-1])
    return Plot(title, tuple(zip(names, (shares / shares.sum()).tolist(), strict=True)), histogram=True)


def is_outlier(values: pd.Series) -> pd.Series:
    """(n,) bool: more than 3 interquartile ranges (Tukey 1977), and a third of the median, beyond a quartile."""
    low, middle, high = values.quantile([0.25, 0.5, 0.75])
    fence = max(_FAR_OUT * (high - low), abs(middle) / 3, 1e-9)
    return (values < low - fence) | (values > high + fence)
