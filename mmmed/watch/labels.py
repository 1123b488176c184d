"""Labels that come when the truth is known: joined with predictions by the study's pseudonym."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mmmed.config import RunConfig
from mmmed.data.cells import canonical, rows_of, text_of
from mmmed.data.manifest import read_table, refuse
from mmmed.errors import DataError
from mmmed.watch.log import Lines, WatchFolder


class Added(NamedTuple):
    """What became of the rows of a table of labels."""

    new: int
    same: int
    corrected: int
    unknown: int
    unlabelled: int


def add_labels(folder: WatchFolder, table: Path, study: str = "", *, correct: bool = False) -> Added:
    """Add the labels of a table to the log: all that are new, or none if one is wrong.

    Args:
        folder: of the log.
        table: CSV or Parquet with a column of the study and those of the task's labels.
        study: that column; by default the one that the model's training table had.
        correct: take a label that contradicts an earlier one, which is no longer counted then.

    Raises:
        DataError: a column is missing, a label is none of the task's, or two labels of a study contradict each other.
    """
    lines = folder.read()
    config = newest_config(folder, lines)
    column = study or config.data.study or config.data.patient
    frame = read_table(table)
    columns = list(dict.fromkeys(config.task.columns.values()))
    for name in (column, *columns):
        if name not in frame.columns:
            mend = "; name the column of the study with --study" if name == column else ""
            raise DataError(
                f"{table}: no column {name!r}. It has: {', '.join(map(str, frame.columns[:20]))}{mend}"
            )
    cells = frame[columns].map(text_of)
    empty = config.task.target().unlabelled(cells == "") | (frame[column].map(text_of) == "")
    cells = cells[~empty].map(canonical)  # 1 and 1.0 are one label
    if len(cells):
        labels_of(config, cells, table)  # raises where one is none
    names = frame[column][~empty].map(lambda cell: folder.study(text_of(cell)))
    told = pd.Series([tuple(row) for row in cells.itertuples(index=False)], index=cells.index, dtype=object)
    torn = told.groupby(names).transform("nunique") > 1 if len(told) else pd.Series(dtype=bool)
    if torn.any():
        raise DataError(
            f"{table}: {rows_of(torn)} hold different labels of one study: leave the right one alone"
        )
    there = {line["study"] for line in lines.predictions}
    before = {line["study"]: line["label"] for line in lines.labels}
    counts = dict.fromkeys(Added._fields, 0) | {"unlabelled": int(empty.sum())}
    added: list[dict[str, Any]] = []
    against = []
    once = ~names.duplicated()
    for row, name, cell in zip(names.index[once], names[once], told[once], strict=True):
        label = dict(zip(columns, cell, strict=True))
        if name not in there:
            counts["unknown"] += 1
        elif before.get(name) == label:
            counts["same"] += 1
        else:
            counts["corrected" if name in before else "new"] += 1
            against += [row] * (name in before)
            added.append({"study": name, "label": label})
    if against and not correct:
        contradicting = pd.Series(frame.index.isin(against), index=frame.index)
        raise DataError(
            f"{table}: {rows_of(contradicting)} contradict labels that were added before. Nothing was added; if "
            "the new ones are right, give --correct"
        )
    if added:
        folder.add(added, labels=True)
    return Added(**counts)


def newest_config(folder: WatchFolder, lines: Lines) -> RunConfig:
    """The configuration of the model that predicted last. Raises `DataError` if nothing was predicted yet."""
    if not lines.predictions:
        raise DataError(f"{folder.path}: nothing was predicted yet")
    return folder.model(lines.predictions[-1]["model"])


def labels_of(config: RunConfig, cells: pd.DataFrame, table: Path) -> np.ndarray:
    """Cells of the task's columns -> (N,) or (N, L) labels. Raises `DataError` if one is none of the task's."""
    labels = config.task.target().labels(cells.reset_index(drop=True), table, refuse)
    return labels.to_numpy()
