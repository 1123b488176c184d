"""Labels of every task as they come from a table: what is read, what is masked, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mmmed.check import check
from mmmed.config import DataConfig
from mmmed.data.manifest import Manifest, read_manifest
from mmmed.errors import DataError
from mmmed.tasks import Multilabel, Ordinal, Regression, Several, Survival, Task

TWO = Multilabel(labels=("a", "b"))
BOTH = Several(
    tasks={"age": Regression(label="age", low=0, high=100), "grade": Ordinal(), "two": TWO}, main="grade"
)
FOUND = {"a": [0, 0, 1], "b": [0, 1, 1]}
TIMES = Survival(borders=(7, 30))


def read(folder: Path, task: Task, columns: dict[str, list[Any]], **more: Any) -> Manifest:
    count = len(next(iter(columns.values())))
    table = {"patient_id": range(count), "study_id": range(count), "site": "s", "text": "a note", **columns}
    pd.DataFrame(table).to_csv(folder / "data.csv", index=False)
    return read_manifest(folder, DataConfig(image=""), task, **more)


def test_an_empty_cell_is_not_known_and_never_a_zero(tmp_path: Path) -> None:
    manifest = read(tmp_path, TWO, {"a": [1, "", 0, ""], "b": ["", 0, 1, ""]})
    np.testing.assert_array_equal(manifest.labels, [[1, np.nan], [np.nan, 0], [0, 1]])
    assert manifest.labels.dtype == np.float32 and manifest.unlabelled == {"s": 1}
    assert manifest.of_site("s").labels.shape == (3, 2)
    members = TWO.target().members(manifest.labels)
    assert members.astype(int).tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]]


def test_a_time_falls_into_its_interval(tmp_path: Path) -> None:
    given = {"days": [0, 6.9, 7, 29, 30, 400, 5], "event": [1, 0, 1, "0", 1, 0, "1.0"]}
    assert read(tmp_path, TIMES, given).labels.tolist() == [1, 0, 3, 2, 4, 4, 1]


def test_a_record_may_lack_some_of_several_tasks(tmp_path: Path) -> None:
    given = {"age": [50, "", "", 20], "grade": ["", 3, "", 0], "a": [1, "", "", 0], "b": ["", "", "", 1]}
    labels = read(tmp_path, BOTH, given).labels
    nan = np.nan
    np.testing.assert_array_equal(labels, [[50, nan, 1, nan], [nan, 3, nan, nan], [20, 0, 0, 1]])


@pytest.mark.parametrize(
    ("task", "columns", "words"),
    [
        (TWO, {"a": [1, 2, 0], "b": [0, 0, 1]}, ["'a' holds '2' in row 2", "0 and 1", "empty"]),
        (TWO, {"a": [1, 0, 0], "b": [0, "yes", 1]}, ["'b' holds 'yes' in row 2"]),
        (Ordinal(), {"grade": [0, 4, 1]}, ["'grade' holds '4' in row 2", "task.classes ['0', '1', '2', '3']"]),
        (Regression(), {"severity": [0, 10.1, 1]}, ["'severity' holds '10.1' in row 2", "task.high = 10"]),
        (Regression(), {"severity": [0, "mild", 1]}, ["'mild' in row 2", "a number from task.low = 0"]),
        (Regression(), {"severity": [0, "inf", 1]}, ["'inf' in row 2"]),
        (TIMES, {"days": [3, -1, 40], "event": [1, 1, 0]}, ["'days' holds '-1' in row 2", "0 or more"]),
        (TIMES, {"days": [3, "inf", 40], "event": [1, 1, 0]}, ["'days' holds 'inf' in row 2"]),
        (TIMES, {"days": [3, 9, 40], "event": [1, 2, 0]}, ["'event' holds '2' in row 2", "1 if the event"]),
        (BOTH, {"age": [3, 101, 4], "grade": [0, 1, 2], **FOUND}, ["'101' in row 2", "task.tasks.age"]),
        (BOTH, {"age": [3, 10, 4], "grade": [0, 9, 2], **FOUND}, ["'9' in row 2", "task.tasks.grade"]),
    ],
)  # fmt: skip
def test_a_wrong_cell_is_named_and_where_it_is_only_noted_left_out(
    tmp_path: Path, task: Task, columns: dict[str, list[Any]], words: list[str]
) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, task, columns)
    assert all(word in str(error.value) for word in ["data.csv", *words]), error.value
    noted: list[str] = []
    manifest = read(tmp_path, task, columns, problem=noted.append)
    assert noted and len(manifest.records) == (3 if isinstance(task, Several) else 2)


@pytest.mark.parametrize(
    ("task", "columns", "words"),
    [
        (TWO, {"a": ["", ""], "b": ["", ""]}, "'a, b' is empty in every row"),
        (TWO, {"a": [1, 1], "b": [0, 0]}, r"the same label \(a = 1, b = 0\)"),
        (TWO, {"a": [1, 1], "b": ["", ""]}, r"the same label \(a = 1\)"),
        (TIMES, {"days": [50, 60], "event": [0, 0]}, r"the same label \(no event seen by 30\)"),
        (Survival(event="died"), {"days": [50, 60], "event": [0, 1]}, r"no column 'died' \(asked for by task.event\)"),
        (BOTH, {"age": [5, 6], "a": [0, 1], "b": [0, 1]}, r"no column 'grade' \(asked for by task.tasks.grade.label\)"),
    ],
)  # fmt: skip
def test_a_table_from_which_nothing_can_be_learnt_is_refused(
    tmp_path: Path, task: Task, columns: dict[str, list[Any]], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        read(tmp_path, task, columns)


def test_a_data_steward_sees_each_finding_by_itself(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, (2, 80))
    tells = np.where(b == 1, "left", "right")  # one column tells b, and nothing of a
    given = {"a": list(a), "b": ["" if n % 8 == 0 else one for n, one in enumerate(b)], "side": list(tells)}
    read(tmp_path, TWO, given)
    result = check(tmp_path, DataConfig(image=""), TWO)
    assert not result.problems
    assert [name for name, _ in result.facts["Label balance"]] == ["a = 0", "a = 1", "b = 0", "b = 1"]
    assert any(one.startswith("side alone tells b (AUROC 1.00") for one in result.warnings)
    assert not any("tells a " in one for one in result.warnings)
