"""What a data steward wants to know before a data set is trained on. Counts are rounded; nothing is sent."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from mmmed.config import DataConfig, TaskConfig
from mmmed.data.check.suspects import shortcut_auroc, telling_words
from mmmed.data.image import read_image
from mmmed.data.manifest import Manifest, read_manifest
from mmmed.errors import DataError

MIN_PATIENTS_A_CLASS = 10
SHORTCUT_AUROC = 0.65
_SAMPLED_IMAGES = 400
_OUTLIER = 6.0  # robust standard deviations


@dataclass
class CheckResult:
    """What was found.

    Attributes:
        problems: reasons why the data set cannot be trained on.
        warnings: what a human should look into; the data set can be trained on.
        facts: section -> lines of (what, value), counts rounded.
        examples: image files of the outliers first, then of a random sample.
    """

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    examples: list[Path] = field(default_factory=list)

    @property
    def trainable(self) -> bool:
        return not self.problems

    def summary(self) -> str:
        """Lines for the terminal."""
        lines = [f"{'trainable' if self.trainable else 'NOT trainable'}"]
        for section, facts in self.facts.items():
            lines += [section, *(f"  {name:32} {value}" for name, value in facts)]
        lines += [f"warning: {one}" for one in self.warnings] + [f"problem: {one}" for one in self.problems]
        return "\n".join(lines)


def check(root: Path, data: DataConfig, task: TaskConfig) -> CheckResult:
    """Read the table of ``root`` as training would and measure it; problems are reported, not raised."""
    result = CheckResult()
    try:
        manifest = read_manifest(root, data, task)
    except DataError as error:
        result.problems.append(str(error))
        return result
    records = manifest.records
    _count(records, task, result)
    _measure_texts(records, result)
    _measure_images(manifest, data, result)
    _look_for_shortcuts(manifest, data, result)
    return result


def rounded(count: int) -> str:
    """A count to two digits, and nothing exact below ten."""
    if count < 10:
        return "< 10" if count else "0"
    digits = 10 ** max(1, math.floor(math.log10(count)) - 1)
    return f"about {round(count / digits) * digits:,}"


def _count(records: pd.DataFrame, task: TaskConfig, result: CheckResult) -> None:
    facts = [(name, rounded(records[name].nunique())) for name in ("patient", "study", "site")]
    facts += [
        ("records", rounded(len(records))),
        ("records without image", f"{(records['image'] == '').mean():.0%}"),
        ("records without note", f"{(records['text'] == '').mean():.0%}"),
        ("records a patient, at most", str(records.groupby("patient").size().max())),
    ]
    result.facts["Counts"] = facts
    balance = []
    for index, name in enumerate(task.classes):
        chosen = records["label"] == index
        patients = int(records.loc[chosen, "patient"].nunique())
        balance.append(
            (f"{task.label} = {name}", f"{chosen.mean():.0%} of records, {rounded(patients)} patients")
        )
        if patients < MIN_PATIENTS_A_CLASS:
            result.problems.append(
                f"{task.label} = {name}: fewer than {MIN_PATIENTS_A_CLASS} patients; nothing can be learnt or tested"
            )
    result.facts["Label balance"] = balance


def _measure_texts(records: pd.DataFrame, result: CheckResult) -> None:
    texts = records.loc[records["text"] != ""]
    if texts.empty:
        return
    words = texts["text"].map(lambda text: len(text.split()))
    quantiles = words.quantile([0.05, 0.5, 0.95]).round().astype(int)
    result.facts["Notes"] = [("words: 5 %, median, 95 %", ", ".join(map(str, quantiles)))]
    told = telling_words(texts)
    if told:
        result.facts["Notes"].append(
            ("words that tell the label", ", ".join(f"{w} ({phi:+.2f})" for w, phi in told))
        )
        result.warnings.append(
            "notes hold words that almost are the label ("
            + ", ".join(word for word, _ in told[:5])
            + "): was "
            "the label read from these notes? Leave out the section that states it"
        )


def _measure_images(manifest: Manifest, data: DataConfig, result: CheckResult) -> None:
    names = manifest.records.loc[manifest.records["image"] != "", "image"].drop_duplicates()
    if names.empty:
        return
    sample = names.sample(min(len(names), _SAMPLED_IMAGES), random_state=0)
    measured, unreadable = [], []
    for name in sample:
        try:
            pixels = read_image(manifest.root / name, channels=data.image_channels)
        except DataError as error:
            unreadable.append(str(error))
            continue
        measured.append((name, pixels.shape[1], pixels.shape[2], float(pixels.mean()), float(pixels.std())))
    if unreadable:
        result.problems.append(
            f"{len(unreadable)} of {len(sample)} images looked at are unreadable: {unreadable[0]}"
        )
    frame = pd.DataFrame(measured, columns=["name", "height", "width", "mean", "contrast"])
    if frame.empty:
        return
    result.facts["Images"] = [
        (
            f"{column}: 5 %, median, 95 %",
            ", ".join(f"{v:.3g}" for v in frame[column].quantile([0.05, 0.5, 0.95])),
        )
        for column in ("height", "width", "mean", "contrast")
    ]
    odd = frame[_is_outlier(frame["mean"]) | _is_outlier(frame["contrast"])]
    empty = frame["contrast"] < 1e-3
    result.facts["Images"] += [("outliers in brightness or contrast", f"{len(odd) / len(frame):.1%}")]
    if empty.any():
        result.warnings.append(f"{empty.mean():.1%} of the images looked at are of one gray: failed exports?")
    shown = [*frame.loc[empty, "name"], *odd["name"], *frame["name"]]
    result.examples = [manifest.root / name for name in dict.fromkeys(shown)][:24]


def _is_outlier(values: pd.Series) -> pd.Series:
    spread = 1.4826 * (values - values.median()).abs().median()
    return (values - values.median()).abs() > _OUTLIER * max(spread, 1e-3)


def _look_for_shortcuts(manifest: Manifest, data: DataConfig, result: CheckResult) -> None:
    """Can the label be told from facts that are no medicine?"""
    auroc, columns = shortcut_auroc(manifest, data)
    if auroc is None:
        return
    result.facts["Shortcuts"] = [
        ("facts", ", ".join(columns)),
        ("AUROC of the label from them", f"{auroc:.2f}"),
    ]
    if auroc >= SHORTCUT_AUROC:
        result.warnings.append(
            f"the label can be told from {', '.join(columns)} alone (AUROC {auroc:.2f}, patients held out): a model "
            "may learn these instead of medicine. Compare its AUROC with this one, within sites"
        )
