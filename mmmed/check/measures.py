"""Statistics of notes, images and values, with what stands out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mmmed.check.result import CheckResult, Example, Plot
from mmmed.check.statistics import describe, histogram, is_outlier, quantiles, short
from mmmed.check.suspects import telling_words
from mmmed.config import DataConfig
from mmmed.data.image import read_image
from mmmed.errors import DataError
from mmmed.modalities.image import ImageData

ODD_VALUES = 0.02
_SAMPLED_IMAGES = 400
_SHOWN = 24
_GRAY = 1e-3  # contrast of an image without content
_FEW = 10  # different values, up to which they are named
_SHOWN_CATEGORIES = 4
_OTHER_UNIT = 5  # times the median of another site
_NUMERIC = 0.8  # of the cells that are there
_FACTS = {"patient_id", "study_id", "site", "text", "study_date", "shape", "spacing_mm"}  # no values


def measure_texts(records: pd.DataFrame, result: CheckResult) -> None:
    """Lengths of the notes."""
    texts = records.loc[records["text"] != ""]
    if texts.empty:
        return
    words = texts["text"].map(lambda text: len(text.split()))
    result.facts["Notes"] = [("words: 5 %, median, 95 %", quantiles(words))]
    result.plots["Notes"] = [histogram("words a note", words)]


def look_for_telling_words(label: str, records: pd.DataFrame, result: CheckResult) -> None:
    """Words in the notes of the records that are their label, which `label` names in words."""
    told = telling_words(records.loc[records["text"] != ""])
    if told:
        result.facts["Notes"].append(
            (f"words that tell {label}", ", ".join(f"{w} ({phi:+.2f})" for w, phi in told))
        )
        result.warnings.append(
            f"notes hold words that almost are {label} ("
            + ", ".join(word for word, _ in told[:5])
            + "): was the label read from these notes? Leave out the section that states it"
        )


def measure_images(records: pd.DataFrame, root: Path, data: DataConfig, result: CheckResult) -> None:
    """Size, brightness and contrast of a sample of the images, with examples of those that stand out.

    Args:
        records: the table, with a column ``image`` of paths below `root`, "" where there is none.
        root: folder of the data set.
        data: gives the number of channels that images are read with.
        result: takes facts, plots, warnings and examples, and a problem if images cannot be read.
    """
    names = records.loc[records["image"] != "", "image"].drop_duplicates()
    if names.empty:
        return
    sample = names.sample(min(len(names), _SAMPLED_IMAGES), random_state=0)
    measured, unreadable = [], []
    for name in sample:
        try:
            pixels = read_image(root / name, channels=data.of(ImageData).image_channels)
        except DataError as error:
            unreadable.append(str(error))
            continue
        measured.append((name, pixels.shape[1], pixels.shape[2], float(pixels.mean()), float(pixels.std())))
    if unreadable:
        result.problems.append(
            f"{len(unreadable) / len(sample):.1%} of the images looked at are unreadable: {unreadable[0]}"
        )
    columns = ("height", "width", "brightness", "contrast")
    frame = pd.DataFrame(
        [numbers for _, *numbers in measured], columns=columns, index=[n for n, *_ in measured]
    )
    if frame.empty:
        return
    whys = describe("Images", frame, columns[2:], result)
    gray = frame["contrast"] < _GRAY
    whys[gray] = "one gray"
    if gray.any():
        result.warnings.append(f"{gray.mean():.1%} of the images looked at are of one gray: failed exports?")
    order = sorted(frame.index, key=lambda name: (not gray[name], not whys[name]))
    result.examples += [Example(root / name, whys[name]) for name in order[:_SHOWN]]


def further_columns(table: pd.DataFrame, used: set[str]) -> list[str]:
    """Columns that are neither in ``used`` nor among those that never hold a value to describe."""
    return [str(name) for name in table.columns if name not in used | _FACTS]


def measure_values(table: pd.DataFrame, columns: list[str], sites: pd.Series, result: CheckResult) -> None:
    """Missing values of each column; spread and outliers of columns of numbers; sites whose numbers differ.

    Args:
        table: one row a record; empty cells are "" or NaN.
        columns: of `table`, to be looked at.
        sites: (N,) the site of each row.
        result: takes facts, plots and warnings.
    """
    facts, plots, missing = [], [], []
    for column in columns:
        cells = table[column].replace("", np.nan)
        share = float(cells.isna().mean())
        missing.append((str(column), share))
        numbers = pd.to_numeric(cells, errors="coerce").dropna()
        if cells.nunique() <= _FEW or len(numbers) < _NUMERIC * cells.notna().sum():
            facts.append((str(column), f"{share:.0%} empty; {_categories(cells)}".removesuffix("; ")))
            continue
        odd = float(is_outlier(numbers).mean())
        facts.append(
            (str(column), f"{share:.0%} empty; 5 %, median, 95 %: {quantiles(numbers)}; {odd:.1%} outliers")
        )
        plots.append(histogram(str(column), numbers))
        if odd >= ODD_VALUES:
            result.warnings.append(
                f"{column}: {odd:.1%} of its values lie far from the others: is its unit the same everywhere?"
            )
        if (differ := _sites_differ(numbers, sites)) is not None:
            result.warnings.append(f"{column}: {differ}: is its unit the same everywhere?")
    if facts:
        result.facts["Values"] = facts
        result.plots["Values"] = [Plot("share that is empty", tuple(missing)), *plots]


def _sites_differ(numbers: pd.Series, sites: pd.Series) -> str | None:
    """The sites with the largest and the smallest median, if one is several times the other."""
    groups = numbers.groupby(sites.loc[numbers.index])
    medians = {str(site): abs(float(values.median())) for site, values in groups if len(values) >= _FEW}
    if not medians:
        return None
    low, high = min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__)
    if not 0 < medians[low] * _OTHER_UNIT < medians[high]:
        return None
    return f"its median is {short(medians[high])} in {high} and {short(medians[low])} in {low}"


def _categories(cells: pd.Series) -> str:
    """The most frequent values, each with its share of the cells that are not empty."""
    shares = cells.dropna().map(lambda cell: f"{cell:g}" if isinstance(cell, float) else str(cell))
    top = shares.value_counts(normalize=True).head(_SHOWN_CATEGORIES)
    more = f" and {shares.nunique() - len(top)} more" if shares.nunique() > len(top) else ""
    if len(top) and top.iloc[0] < 1 / _FEW:
        return f"{shares.nunique()} different values"
    return ", ".join(f"{str(name)[:40]} {share:.0%}" for name, share in top.items()) + more
