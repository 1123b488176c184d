"""Statistics of notes, images and values, with what stands out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mmmed.config import DataConfig
from mmmed.data.check.result import CheckResult, Example, Plot
from mmmed.data.check.suspects import telling_words
from mmmed.data.image import read_image
from mmmed.errors import DataError

ODD_VALUES = 0.02
_SAMPLED_IMAGES = 400
_SHOWN = 24
_GRAY = 1e-3  # contrast of an image without content
_BINS = 12
_FAR_OUT = 3.0
_FEW = 10  # different values, up to which they are named
_SHOWN_CATEGORIES = 4
_NUMERIC = 0.8  # of the cells that are there
_FACTS = {"patient_id", "study_id", "site", "text", "study_date", "shape", "spacing_mm"}  # no values


def measure_texts(records: pd.DataFrame, result: CheckResult) -> None:
    """Lengths of the notes, and words in them that are the label."""
    texts = records.loc[records["text"] != ""]
    if texts.empty:
        return
    words = texts["text"].map(lambda text: len(text.split()))
    result.facts["Notes"] = [("words: 5 %, median, 95 %", _quantiles(words))]
    result.plots["Notes"] = [_histogram("words a note", words)]
    told = telling_words(texts)
    if told:
        result.facts["Notes"].append(
            ("words that tell the label", ", ".join(f"{w} ({phi:+.2f})" for w, phi in told))
        )
        result.warnings.append(
            "notes hold words that almost are the label ("
            + ", ".join(word for word, _ in told[:5])
            + "): was the label read from these notes? Leave out the section that states it"
        )


def measure_images(records: pd.DataFrame, root: Path, data: DataConfig, result: CheckResult) -> None:
    """Size, brightness and contrast of a sample of the images; those that stand out are shown."""
    names = records.loc[records["image"] != "", "image"].drop_duplicates()
    if names.empty:
        return
    sample = names.sample(min(len(names), _SAMPLED_IMAGES), random_state=0)
    measured, unreadable = [], []
    for name in sample:
        try:
            pixels = read_image(root / name, channels=data.image_channels)
        except DataError as error:
            unreadable.append(str(error))
            continue
        measured.append((name, pixels.shape[1], pixels.shape[2], float(pixels.mean()), float(pixels.std())))
    if unreadable:
        result.problems.append(
            f"{len(unreadable) / len(sample):.1%} of the images looked at are unreadable: {unreadable[0]}"
        )
    frame = pd.DataFrame(measured, columns=["name", "height", "width", "brightness", "contrast"])
    if frame.empty:
        return
    columns = ("height", "width", "brightness", "contrast")
    result.facts["Images"] = [
        (f"{column}: 5 %, median, 95 %", _quantiles(frame[column])) for column in columns
    ]
    result.plots["Images"] = [_histogram(column, frame[column]) for column in columns[2:]]
    odd = {column: _is_outlier(frame[column]) for column in columns}
    result.facts["Images"] += [(f"outliers in {column}", f"{odd[column].mean():.1%}") for column in columns]
    gray = frame["contrast"] < _GRAY
    if gray.any():
        result.warnings.append(f"{gray.mean():.1%} of the images looked at are of one gray: failed exports?")
    whys = [
        "one gray" if gray[i] else ", ".join(f"{c} {_short(frame[c][i])}" for c in columns if odd[c][i])
        for i in frame.index
    ]
    order = sorted(frame.index, key=lambda i: (not gray[i], not whys[i]))
    result.examples = [Example(root / frame["name"][i], whys[i]) for i in order[:_SHOWN]]


def measure_values(table: pd.DataFrame, used: set[str], result: CheckResult) -> None:
    """Missingness of every further column of the table; spread and outliers of numbers. ``used`` are the others."""
    facts, plots, missing = [], [], []
    for column in (name for name in table.columns if name not in used | _FACTS):
        cells = table[column].replace("", np.nan)
        share = float(cells.isna().mean())
        missing.append((str(column), share))
        numbers = pd.to_numeric(cells, errors="coerce").dropna()
        if cells.nunique() <= _FEW or len(numbers) < _NUMERIC * cells.notna().sum():
            facts.append((str(column), f"{share:.0%} empty; {_categories(cells)}"))
            continue
        odd = float(_is_outlier(numbers).mean())
        facts.append(
            (str(column), f"{share:.0%} empty; 5 %, median, 95 %: {_quantiles(numbers)}; {odd:.1%} outliers")
        )
        plots.append(_histogram(str(column), numbers))
        if odd >= ODD_VALUES:
            result.warnings.append(
                f"{column}: {odd:.1%} of its values lie far from the others: is its unit the same everywhere?"
            )
    if facts:
        result.facts["Values"] = facts
        result.plots["Values"] = [Plot("share that is empty", tuple(missing)), *plots]


def _categories(cells: pd.Series) -> str:
    """The most frequent values with their shares of those that are there."""
    shares = cells.dropna().map(lambda cell: f"{cell:g}" if isinstance(cell, float) else str(cell))
    top = shares.value_counts(normalize=True).head(_SHOWN_CATEGORIES)
    more = f" and {shares.nunique() - len(top)} more" if shares.nunique() > len(top) else ""
    if len(top) and top.iloc[0] < 1 / _FEW:
        return f"{shares.nunique()} different values"
    return ", ".join(f"{str(name)[:40]} {share:.0%}" for name, share in top.items()) + more


def _quantiles(values: pd.Series) -> str:
    return ", ".join(map(_short, values.quantile([0.05, 0.5, 0.95])))


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _histogram(title: str, values: pd.Series) -> Plot:
    """Shares between the 1st and 99th percentile; what lies outside counts to the ends."""
    low, high = values.quantile([0.01, 0.99])
    shares, edges = np.histogram(values.clip(low, high), bins=_BINS)
    names = map(_short, edges[:-1])
    return Plot(title, tuple(zip(names, (shares / shares.sum()).tolist(), strict=True)), histogram=True)


def _is_outlier(values: pd.Series) -> pd.Series:
    """Beyond the quartiles by more than 3 interquartile ranges (Tukey 1977), at least a third of the median."""
    low, middle, high = values.quantile([0.25, 0.5, 0.75])
    fence = max(_FAR_OUT * (high - low), abs(middle) / 3, 1e-9)
    return (values < low - fence) | (values > high + fence)
