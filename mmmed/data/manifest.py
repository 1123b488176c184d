"""A site's table of studies, read and checked.

One row is one record: an image or volume of a study with the study's note and label (several images of a study
are several rows). Columns are renamed from what `DataConfig` says to the fixed names below, so that the rest of
the code never meets a hospital's own spelling.

What is wrong with a row is a *problem*. Where a person is to mend it, it is raised. A hospital that answers others
must not: a refusal would tell of one row that it does not fit what a run asks (its labels, columns, folds). There a
problem is noted, and the row is left out, or has the value missing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd

from mmmed.config import DataConfig
from mmmed.data.cells import Problem, canonical, rows_of, text_of
from mmmed.data.image_approvals import check_approved, waiting_note
from mmmed.errors import DataError
from mmmed.modalities import MODALITIES
from mmmed.modalities.base import Reading
from mmmed.modalities.columns import Files
from mmmed.tasks import Task

TABLES = ("data.parquet", "data.csv")
_LABEL = "label"


def refuse(message: str) -> NoReturn:
    """Raise a problem as a `DataError`."""
    raise DataError(message)


@dataclass(frozen=True, eq=False)
class Manifest:
    """Checked records. One is equal to itself alone.

    Attributes:
        root: folder that file paths are relative to.
        records: columns ``patient``, ``study``, ``site`` (str), those of each modality (`Modality.read`), ``label``
            (a number, see `mmmed.tasks.base.Target.labels`; of L numbers ``label 0`` .. ``label L-1``), ``row`` (int64,
            from 0, in the table) and, if a fold column is configured, ``fold`` (int64). The index is 0 .. N - 1.
        unlabelled: site -> rows without a label, which are left out of ``records``. The counts stay at the site.
        waiting: images held for review that no human has approved yet, which are in no row. Stays at the site, too.
        problem: what is done about a row that does not fit: raised, or noted.
    """

    root: Path
    records: pd.DataFrame
    unlabelled: Mapping[str, int] = field(default_factory=dict)
    waiting: int = 0
    problem: Problem = refuse

    @property
    def sites(self) -> list[str]:
        """Names of the sites, sorted."""
        return sorted(self.records["site"].unique())

    @property
    def labels(self) -> np.ndarray:
        """(N,) or (N, L) labels, in order."""
        return _labels_of(self.records)

    @property
    def noted(self) -> Problem | None:
        """`problem` if it only notes problems; None if it raises them."""
        return None if self.problem is refuse else self.problem

    @cached_property
    def _rows_of(self) -> Mapping[str, np.ndarray]:
        """Where the records of each site are: looked for once, not once a site."""
        found = self.records.groupby("site", sort=False).indices
        return {str(site): np.asarray(rows) for site, rows in found.items()}

    def of_site(self, site: str) -> Manifest:
        """The records of one site."""
        rows = self._rows_of.get(site)
        if rows is None:
            raise DataError(
                f"{self.root}: no record of site '{site}'. Sites present: {', '.join(self.sites)}"
            )
        mine = self.records.take(rows).reset_index(drop=True)
        return Manifest(self.root, mine, {site: self.unlabelled.get(site, 0)}, self.waiting, self.problem)


def read_manifest(
    root: Path,
    data: DataConfig,
    task: Task | None,
    problem: Problem = refuse,
    without: Container[str] = frozenset(),
) -> Manifest:
    """Read and check the table of a data set. Rows without a label are left out, and counted.

    A problem is a row that is malformed or none left, no valid label, one label only, a patient in two
    sites, a file missing, or a named modality nowhere. Its message names the file, the column or the row (1 is the
    first row under the header). If `problem` returns, the row is left out, or has the value missing.

    Args:
        root: the data folder; paths in the table are below it.
        data: which table and which of its columns are read, and which rows are kept.
        task: which columns hold the labels, and what may stand there; None for studies that are to be predicted: no
            label is asked for, and NaN stands in its place.
        problem: is told of each problem; by default it raises.
        without: patients whose rows are left out before anything else is looked at.

    Raises:
        DataError: table or column missing, an image held for review that is not approved, or a problem.
    """
    path = table_file(root, data)
    frame = read_table(path)
    if without:
        _require_column(frame, data.patient, path, "data.patient")
        patients = frame[data.patient].map(text_of)
        frame = frame[~patients.isin([one for one in patients.unique() if one in without])]
    waiting = check_approved(root, _file_names(frame, data))
    try:
        records, unlabelled = _records(frame, root, path, data, task, problem)
    except DataError as error:
        if waiting:
            raise DataError(f"{error}\nNote: {waiting_note(root, waiting)}") from error
        raise
    return Manifest(root, records, unlabelled, waiting, problem)


def _records(
    frame: pd.DataFrame, root: Path, path: Path, data: DataConfig, task: Task | None, problem: Problem
) -> tuple[pd.DataFrame, dict[str, int]]:
    """`Manifest.records` of a table, and how many rows of each site have no label."""
    columns = {"patient": data.patient, "study": data.study or data.patient, "site": data.site}
    columns |= {"fold": data.fold} if data.fold else {}
    for name, column in columns.items():
        _require_column(frame, column, path, f"data.{name}")
    for key, column in task.columns.items() if task else ():
        _require_column(frame, column, path, f"task.{key}")
    for modality in MODALITIES.values():
        for column, key in modality.columns(data).items():
            _require_column(frame, column, path, key)
    frame = _keep_rows(frame, data, path, problem)
    records = pd.DataFrame({name: frame[column] for name, column in columns.items()})
    for name in ("patient", "study", "site"):
        records = _identified(records, name, path, columns[name], problem)
    if not data.study:
        records = _one_row_each(records, path, problem)
    unlabelled: dict[str, int] = {}
    if task is None:
        records = records.assign(**{_LABEL: np.nan})
    else:
        cells = frame[list(dict.fromkeys(task.columns.values()))]
        records, unlabelled = _labelled(records, cells, task, path, problem)
    reading = Reading(root, path, problem)
    read = [one.read(frame.loc[records.index], data, reading) for one in MODALITIES.values()]
    records = pd.concat([records, *read], axis=1)
    if data.fold:
        records = _folds(records, path, data.fold, problem)
    if task is not None:
        records = _one_site_each(records, data, path, problem)
        _check_several_labels(records, task, path, problem)
    for name in data.modalities:
        if task is not None or MODALITIES[name].has(records, data).any():  # a study may be without
            records = MODALITIES[name].check(records, data, reading)
    records["row"] = records.index
    return records.reset_index(drop=True), unlabelled


def _file_names(frame: pd.DataFrame, data: DataConfig) -> Iterator[str]:
    """All files that the table names."""
    for modality in MODALITIES.values():
        for column in modality.columns(data) if isinstance(modality, Files) else ():
            if column in frame.columns:
                yield from frame[column].map(text_of)


def table_file(root: Path, data: DataConfig) -> Path:
    """Path of the table: the one that `data.table` names, else data.parquet if it exists, else data.csv."""
    if data.table:
        return root / data.table
    return next((path for name in TABLES if (path := root / name).is_file()), root / TABLES[-1])


def read_table(path: Path) -> pd.DataFrame:
    """A CSV (all text) or Parquet table as it stands. Raises `DataError` if it cannot be read."""
    if not path.is_file():
        raise DataError(f"{path}: no such table. Expected a CSV or Parquet file; name it with data.table")
    try:
        if path.suffix.lower() == ".parquet":
            from pyarrow import parquet

            # whole numbers stay so beside a missing one: as floating point, long ids would become others'
            frame: pd.DataFrame = parquet.read_table(path).to_pandas(integer_object_nulls=True)
            return frame
        return pd.read_csv(path, dtype=object, keep_default_na=False, na_values=[""])
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from error
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{path}: cannot be read as a table: {error}") from error


def _require_column(frame: pd.DataFrame, column: str, path: Path, key: str) -> None:
    if column in frame.columns:
        return
    near = difflib.get_close_matches(column, [str(name) for name in frame.columns], n=1)
    hint = f"Did you mean '{near[0]}'?" if near else f"It has: {', '.join(map(str, frame.columns[:20]))}."
    mend = ', or to "" if each patient has one row' if key == "data.study" else ""
    raise DataError(
        f"{path}: no column '{column}' (asked for by {key}). {hint} Set {key} to the right column{mend}"
    )


def _keep_rows(frame: pd.DataFrame, data: DataConfig, path: Path, problem: Problem) -> pd.DataFrame:
    for column, wanted in data.where.items():
        _require_column(frame, column, path, f"data.where.{column}")
        allowed = {canonical(value) for value in (wanted if isinstance(wanted, tuple) else (wanted,))}
        frame = frame[frame[column].map(canonical).isin(allowed)]
        if frame.empty:
            problem(f"{path}: no row has {column} = {wanted!r} (data.where): nothing left to train on")
    return frame


def _identified(records: pd.DataFrame, name: str, path: Path, column: str, problem: Problem) -> pd.DataFrame:
    texts = records[name].map(text_of)
    empty = texts == ""
    if empty.any():
        problem(f"{path}: column '{column}' is empty in {rows_of(empty)}. Every record needs one")
    return records.assign(**{name: texts})[~empty]


def _labelled(
    records: pd.DataFrame, cells: pd.DataFrame, task: Task, path: Path, problem: Problem
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The records with a label, and how many each site has without. `cells` are the task's columns of all rows."""
    cells = cells.loc[records.index]
    target = task.target()
    empty = target.unlabelled(cells.map(text_of) == "")
    if records.empty:
        problem(f"{path}: has no row: nothing to learn from")
    elif empty.all():
        columns, keys = (", ".join(map(str, part)) for part in (task.columns.values(), task.columns))
        problem(f"{path}: column '{columns}' is empty in every row: no labels. Name another with task.{keys}")
    counts = records.loc[empty, "site"].value_counts()
    labels = target.labels(cells[~empty], path, problem)
    named = {_LABEL: labels} if isinstance(labels, pd.Series) else _numbered(labels)
    labelled = records.loc[labels.index].assign(**named)
    return labelled, {str(site): int(count) for site, count in counts.items()}


def _numbered(labels: pd.DataFrame) -> dict[str, pd.Series]:
    return {f"{_LABEL} {number}": labels.iloc[:, number] for number in range(labels.shape[1])}


def _labels_of(records: pd.DataFrame) -> np.ndarray:
    if _LABEL in records:
        return records[_LABEL].to_numpy()
    return records[[name for name in records if re.fullmatch(rf"{_LABEL} \d+", str(name))]].to_numpy()


def _folds(records: pd.DataFrame, path: Path, column: str, problem: Problem) -> pd.DataFrame:
    numbers = pd.to_numeric(records["fold"], errors="coerce").astype("float64")
    bad = ~(numbers.abs() < 2**53) | (numbers != numbers.round())
    if bad.any():
        problem(f"{path}: column '{column}' is not a whole number in {rows_of(bad)}. Expected a fold index")
    return records[~bad].assign(fold=numbers[~bad].astype("int64"))


def _one_row_each(records: pd.DataFrame, path: Path, problem: Problem) -> pd.DataFrame:
    """The records of patients who have one row, whose studies need no name."""
    several = records["patient"].duplicated(keep=False)
    if several.any():
        problem(
            f"{path}: {records['patient'][several].nunique()} patient(s) have several rows ({rows_of(several)}), and "
            "data.study is empty. Set it to the column that names the study"
        )
    return records[~several]


def _one_site_each(records: pd.DataFrame, data: DataConfig, path: Path, problem: Problem) -> pd.DataFrame:
    sites = records.groupby("patient")["site"].nunique()
    shared = records["patient"].isin(set(sites.index[sites > 1]))
    if shared.any() and not data.drop_shared_patients:
        problem(
            f"{path}: {int((sites > 1).sum())} patient(s) appear in more than one site ({rows_of(shared)}). A "
            "patient's privacy budget is kept by one site: give the records to one of them, or leave these patients "
            "out with data.drop_shared_patients = true"
        )
    return records[~shared]


def _check_several_labels(records: pd.DataFrame, task: Task, path: Path, problem: Problem) -> None:
    labels = _labels_of(records)
    if len(pd.DataFrame(labels).drop_duplicates()) == 1:  # which counts two unknown numbers as equal
        target = task.target()
        only = ", ".join(np.array(target.groups)[target.members(labels)[0]])
        problem(f"{path}: every record has the same label ({only}): nothing to learn")
