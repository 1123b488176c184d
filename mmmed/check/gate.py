"""What a data steward wants to know before a data set is trained on. Counts are rounded; nothing is sent."""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from mmmed.check.measures import further_columns, look_for_telling_words, measure_values
from mmmed.check.result import CheckResult, Plot
from mmmed.check.suspects import shortcut_auroc, telling_columns
from mmmed.config import DataConfig
from mmmed.data.counts import rounded
from mmmed.data.image_approvals import waiting_note, without_name_model
from mmmed.data.manifest import Manifest, read_manifest, read_table, table_file
from mmmed.errors import DataError
from mmmed.modalities import MODALITIES
from mmmed.tasks import Task
from mmmed.tasks.base import Target

MIN_PATIENTS_A_GROUP = 10
SHORTCUT_AUROC = 0.65
TELLING_AUROC = 0.9
_SHOWN_COLUMNS = 8


def check(root: Path, data: DataConfig, task: Task, *, without: Container[str] = frozenset()) -> CheckResult:
    """Read the table of ``root`` as training would and measure it; problems are reported, not raised.

    Rows of the patients ``without`` are left out.
    """
    result = CheckResult()
    try:
        manifest = read_manifest(root, data, task, without=without)
    except DataError as error:
        result.problems.append(str(error))
        return result
    if manifest.waiting:
        result.warnings.append(waiting_note(root, manifest.waiting))
    if without_name_model(root) and (manifest.records.get("text", pd.Series(dtype=str)) != "").any():
        result.warnings.append(
            "notes were read without a name_model: names that no header knows and no title or label introduces are in "
            "them; ingest again with one, or read a sample"
        )
    records, target = manifest.records, task.target()
    table = read_table(table_file(root, data)).iloc[records["row"]].reset_index(drop=True)
    _count(manifest, result)
    _modalities(records, table, data, result)
    _balance(records, target.members(manifest.labels), target.groups, result)
    for modality in MODALITIES.values():
        modality.measure(records, table, root, data, result)
    columns = further_columns(table, {*_named(data), *_TABLE_FILES, *task.columns.values()})
    measure_values(table, columns, records["site"], result)
    for label, own in _questions(records, target, manifest.labels):
        if (own["text"] != "").any():
            look_for_telling_words(label, own, result)
        _look_for_shortcuts(label, own, table.loc[own.index], result)
        _look_for_telling_columns(label, own, table.loc[own.index], columns, result)
    return result


_TABLE_FILES = ("image", "volume", "audio", "waveform", "video")  # as tables usually name them


def _named(data: DataConfig) -> set[str]:
    """Columns that identify a record or hold files and text, so that they are not described as values."""
    others = [one for one in MODALITIES.values() if not one.is_values]
    return {
        *(data.patient, data.study, data.site, data.fold),
        *(column for one in others for column in one.columns(data)),
    }


def _count(manifest: Manifest, result: CheckResult) -> None:
    records, left_out = manifest.records, sum(manifest.unlabelled.values())
    result.facts["Counts"] = [
        *((name, rounded(records[name].nunique())) for name in ("patient", "study", "site")),
        ("records", rounded(len(records))),
        (
            "rows without a label, left out",
            f"{rounded(left_out)} ({left_out / (left_out + len(records)):.0%})",
        ),
        ("images that wait for approval, in no record", rounded(manifest.waiting)),
        ("records a patient, at most", rounded(int(records.groupby("patient").size().max()))),
    ]


def _modalities(records: pd.DataFrame, table: pd.DataFrame, data: DataConfig, result: CheckResult) -> None:
    """Shares of records that have each modality, whether the run trains on it or the table only holds it."""
    shares = {name: MODALITIES[name].has(records, data).mean() for name in data.modalities}
    for name in _TABLE_FILES:
        if name in table.columns and not shares.get(name):
            shares[name] = (table[name].fillna("") != "").mean()
    present = {name: float(share) for name, share in shares.items() if share}
    result.facts["Modalities"] = [(f"records with {name}", f"{share:.0%}") for name, share in present.items()]
    result.plots["Modalities"] = [Plot("records with", tuple(present.items()))]
    if "modality" in table.columns:
        kinds = table["modality"].fillna("").replace("", "not stated").value_counts(normalize=True)
        result.facts["Modalities"] += [(str(kind), f"{share:.0%}") for kind, share in kinds.head(12).items()]


def _questions(
    records: pd.DataFrame, target: Target, labels: np.ndarray
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each question that labels answer, in words, and the records with the number of its group as label."""
    groups = target.group_of(labels).reshape(len(records), len(target.questions))
    for number, group in enumerate(groups.T):
        known = group >= 0
        if len(np.unique(group[known])) > 1:
            yield target.questions[number], records[known].assign(label=group[known])


def _balance(
    records: pd.DataFrame, members: np.ndarray, groups: tuple[str, ...], result: CheckResult
) -> None:
    balance = []
    for index, name in enumerate(groups):
        chosen = pd.Series(members[:, index], index=records.index)
        patients = int(records.loc[chosen, "patient"].nunique())
        balance.append((name, f"{chosen.mean():.0%} of records, {rounded(patients)} patients"))
        if patients < MIN_PATIENTS_A_GROUP:
            result.problems.append(
                f"{name}: fewer than {MIN_PATIENTS_A_GROUP} patients; nothing can be learnt or tested"
            )
    result.facts["Label balance"] = balance
    for index, name in enumerate(groups[1:], start=1):
        shares = pd.Series(members[:, index], index=records.index).groupby(records["site"]).mean()
        bars = tuple((str(site), float(share)) for site, share in shares.items())
        result.plots.setdefault("Label balance", []).append(Plot(f"{name}, by site", bars))


def _look_for_shortcuts(label: str, records: pd.DataFrame, table: pd.DataFrame, result: CheckResult) -> None:
    """Measure how well facts without medical meaning predict the label, and warn if they do."""
    auroc, columns = shortcut_auroc(records, table)
    if auroc is None:
        return
    result.facts.setdefault("Shortcuts", [("facts", ", ".join(columns))]).append(
        (f"AUROC of {label} from them", f"{auroc:.2f}")
    )
    if auroc >= SHORTCUT_AUROC:
        result.warnings.append(
            f"{label} can be told from {', '.join(columns)} alone (AUROC {auroc:.2f}, patients held out): a model "
            "may learn these instead of medicine. Compare its AUROC with this one, within sites"
        )


def _look_for_telling_columns(
    label: str, records: pd.DataFrame, table: pd.DataFrame, columns: list[str], result: CheckResult
) -> None:
    """Measure how well each single column predicts the label, and warn of those that do."""
    told = telling_columns(records, table, columns)
    if told:
        shown = ", ".join(f"{column} {auroc:.2f}" for column, auroc in told[:_SHOWN_COLUMNS])
        result.facts.setdefault("Shortcuts", []).append((f"AUROC of {label} from one column", shown))
    for column, auroc in told:
        if auroc >= TELLING_AUROC:
            result.warnings.append(
                f"{column} alone tells {label} (AUROC {auroc:.2f}, patients held out): was it made from the label, "
                "or measured after it was known? Keep it out of the input then"
            )
