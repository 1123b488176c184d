from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet as pq

from mmmed.config import RunConfig
from mmmed.data.manifest import Manifest, read_manifest
from mmmed.data.split import held_out
from mmmed.errors import DataError

ROWS = [
    {"patient_id": "p1", "study_id": "s1", "site": "a", "image": "1.png", "text": "cough", "finding": 0},
    {"patient_id": "p1", "study_id": "s2", "site": "a", "image": "", "text": "fever", "finding": 1},
    {"patient_id": "p2", "study_id": "s3", "site": "b", "image": "2.png", "text": "", "finding": 1},
]


def write(folder: Path, rows: list[dict[str, Any]], name: str = "data.csv") -> Path:
    frame = pd.DataFrame(rows)
    if name.endswith(".parquet"):
        frame.to_parquet(folder / name)
    else:
        frame.to_csv(folder / name, index=False)
    for row in rows:
        if row.get("image"):
            (folder / row["image"]).touch()
    return folder


def read(folder: Path, **data: Any) -> Manifest:
    config = RunConfig.model_validate({"data": data})
    return read_manifest(folder, config.data, config.task)


@pytest.mark.parametrize("name", ["data.csv", "data.parquet"])
def test_columns_take_their_fixed_names(tmp_path: Path, name: str) -> None:
    manifest = read(write(tmp_path, ROWS, name), table=name)
    assert manifest.sites == ["a", "b"]
    assert list(manifest.records["label"]) == [0, 1, 1]
    assert list(manifest.records["text"]) == ["cough", "fever", ""]
    assert list(manifest.records["image"]) == ["1.png", "", "2.png"]
    assert list(manifest.of_site("b").records["patient"]) == ["p2"]


@pytest.mark.parametrize("value", [1, 1.0, "1", True])
def test_rows_are_kept_whatever_way_the_value_is_written(tmp_path: Path, value: Any) -> None:
    rows = [row | {"keep": keep} for row, keep in zip(ROWS, ["1", "1.0", "0"], strict=True)]
    assert len(read(write(tmp_path, rows), where={"keep": value}).records) == 2
    assert len(read(tmp_path, where={"keep": [0, 1]}).records) == 3


def without(column: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != column} for row in ROWS]


def changed(column: str, values: list[Any]) -> list[dict[str, Any]]:
    return [row | {column: value} for row, value in zip(ROWS, values, strict=True)]


@pytest.mark.parametrize(
    ("rows", "data", "words"),
    [
        (without("patient_id"), {}, ["no column 'patient_id'", "data.patient"]),
        (ROWS, {"text": "txet"}, ["no column 'txet'", "'text'"]),
        (changed("finding", [0, 1, 7]), {}, ["'7'", "row 3", "task.classes"]),
        (changed("finding", ["", "", ""]), {}, ["'finding' is empty in every row", "task.label"]),
        (changed("finding", [0, 0, ""]), {}, ["the same label (finding = "]),
        (changed("finding", [1, 1, 1]), {}, ["the same label (finding = "]),
        (changed("patient_id", ["p1", "p1", "p1"]), {}, ["more than one site", "row"]),
        (changed("patient_id", ["p1", "", "p2"]), {}, ["'patient_id' is empty", "row 2"]),
        (changed("text", ["", "", ""]), {}, ["no notes anywhere", "data.text"]),
        (changed("image", ["", "", ""]), {}, ["no images anywhere"]),
        (changed("image", ["../1.png", "", "2.png"]), {}, ["row 1", "leaves"]),
        (ROWS, {"volume": "volum"}, ["no column 'volum'", "data.volume"]),
        (changed("ct", ["", "", ""]), {"volume": "ct"}, ["no volumes anywhere", "data.volume"]),
        (changed("ct", ["", "", "3.nii.gz"]), {"volume": "ct"}, ["row 3", "no volume file", "3.nii.gz"]),
        (changed("ct", ["", "/etc/passwd", ""]), {"volume": "ct"}, ["row 2", "volume path leaves"]),
        (ROWS, {"where": {"site": "c"}}, ["site = 'c'"]),
        (ROWS, {"where": {"ward": 1}}, ["data.where.ward"]),
        (changed("fold", [0, 1, "x"]), {"fold": "fold"}, ["'fold'", "row 3"]),
    ],
)
def test_bad_tables_are_refused_with_the_place_and_the_mend(
    tmp_path: Path, rows: list[dict[str, Any]], data: dict[str, Any], words: list[str]
) -> None:
    write(tmp_path, rows)
    with pytest.raises(DataError) as caught:
        read(tmp_path, **data)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_rows_without_a_label_are_left_out_and_counted_by_site(tmp_path: Path) -> None:
    extra = [ROWS[2] | {"study_id": f"s{n}", "finding": ""} for n in (8, 9)]
    manifest = read(write(tmp_path, [extra[0], *ROWS, extra[1]]))
    assert list(manifest.records["label"]) == [0, 1, 1] and list(manifest.records["row"]) == [1, 2, 3]
    assert manifest.unlabelled == {"b": 2}
    assert manifest.of_site("a").unlabelled == {"a": 0} and manifest.of_site("b").unlabelled == {"b": 2}
    frame = pd.read_csv(tmp_path / "data.csv").assign(finding=[np.nan, 0, 1, 1, np.nan])
    frame.to_parquet(tmp_path / "data.parquet")  # which is taken before data.csv
    assert list(read(tmp_path).records["label"]) == [0, 1, 1]


def test_a_study_needs_no_name_where_each_patient_has_one_row(tmp_path: Path) -> None:
    first, _, third = without("study_id")
    manifest = read(write(tmp_path, [first, third]), study="")
    assert list(manifest.records["study"]) == list(manifest.records["patient"]) == ["p1", "p2"]
    write(tmp_path, without("study_id"))
    with pytest.raises(
        DataError, match=r"1 patient\(s\) have several rows \(rows 1, 2\).*data\.study"
    ) as caught:
        read(tmp_path, study="")
    assert "p1" not in str(caught.value)
    with pytest.raises(DataError, match=r'no column .study_id.*or to "" if each patient has one row'):
        read(tmp_path)


def test_patients_of_two_sites_may_be_left_out(tmp_path: Path) -> None:
    extra = {
        "patient_id": "p3",
        "study_id": "s4",
        "site": "b",
        "image": "3.png",
        "text": "cough",
        "finding": 0,
    }
    write(tmp_path, [*changed("patient_id", ["p1", "p2", "p1"]), extra])
    manifest = read(tmp_path, drop_shared_patients=True)
    assert list(manifest.records["patient"]) == ["p2", "p3"]


def test_a_patient_is_not_named_by_an_error(tmp_path: Path) -> None:
    write(tmp_path, changed("patient_id", ["SMITH^JOHN"] * 3))
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert "SMITH" not in str(caught.value)


def test_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such table"):
        read(tmp_path)
    write(tmp_path, ROWS)
    (tmp_path / "2.png").unlink()
    with pytest.raises(DataError, match=r"row 3: no image file such as '2\.png'"):
        read(tmp_path)
    (tmp_path / "data.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match=r"UTF-8|cannot be read"):
        read(tmp_path)


def frame_of(patients: list[int]) -> Manifest:
    return Manifest(Path("x"), pd.DataFrame({"patient": [f"p{n}" for n in patients]}))


@given(st.lists(st.integers(0, 200), min_size=60, max_size=200), st.integers(0, 5))
def test_a_patient_is_on_one_side_of_the_split_whoever_else_is_there(patients: list[int], seed: int) -> None:
    data = RunConfig().data
    mask = held_out(frame_of(patients), data, seed)
    side = {}
    for patient, held in zip(patients, mask, strict=True):
        assert side.setdefault(patient, held) == held
    half = patients[: len(patients) // 2]
    try:
        alone = held_out(frame_of(half), data, seed)
    except DataError:
        return
    assert np.array_equal(alone, mask[: len(half)])


def test_about_the_asked_share_is_held_out_and_another_seed_holds_out_others() -> None:
    manifest, data = frame_of(list(range(4000))), RunConfig().data
    assert abs(held_out(manifest, data, 0).mean() - data.test_fraction) < 0.03
    assert (held_out(manifest, data, 0) != held_out(manifest, data, 1)).any()


def test_folds_are_patient_wise_or_refused() -> None:
    data = RunConfig.model_validate({"data": {"fold": "fold", "test_fold": 1}}).data
    good = pd.DataFrame({"patient": ["a", "a", "b"], "fold": [1, 1, 0]})
    assert list(held_out(Manifest(Path("x"), good), data, 0)) == [True, True, False]
    with pytest.raises(DataError, match="several folds"):
        held_out(Manifest(Path("x"), good.assign(fold=[1, 0, 0])), data, 0)
    with pytest.raises(DataError, match="none is left"):
        held_out(Manifest(Path("x"), good.assign(fold=1)), data, 0)


CELL = st.one_of(
    st.sampled_from(
        ["", " ", "0", "1", "2", "a", "1.0", "nan", "1e999", "-1", "0.5", "1.png", "gone.png", "../x", "/"]
    ),
    st.text(max_size=4),
)
COLUMNS = ["patient_id", "study_id", "site", "image", "text", "finding", "age", "sex", "part"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    rows=st.lists(st.fixed_dictionaries(dict.fromkeys(COLUMNS, CELL)), max_size=5),
    folds=st.booleans(),
    where=st.booleans(),
)
def test_where_problems_are_noted_no_row_is_refused_and_what_is_left_is_sound(
    tmp_path: Path, rows: list[dict[str, str]], folds: bool, where: bool
) -> None:
    (tmp_path / "1.png").touch()
    pd.DataFrame(rows, columns=COLUMNS).to_csv(tmp_path / "data.csv", index=False)
    data = {
        "numbers": {"age": [0, 90]},
        "categories": {"sex": ["0", "a"]},
        "where": {"text": "a"} if where else {},
    }
    config = RunConfig.model_validate({"data": data | ({"fold": "part"} if folds else {})})
    noted: list[str] = []
    records = (manifest := read_manifest(tmp_path, config.data, config.task, noted.append)).records
    assert len(records) == len(rows) or noted or records.empty or manifest.unlabelled
    assert (records[["patient", "study", "site"]] != "").all(axis=None)
    assert set(records["label"]) <= {0, 1} and set(records["image"]) <= {"", "1.png"}
    assert not np.isinf(records[["table.age", "table.sex"]].to_numpy(float)).any()
    test = held_out(manifest, config.data, seed=0)
    assert not set(records["patient"][test]) & set(records["patient"][~test])
    assert records.empty or records.groupby("patient")["site"].nunique().max() == 1


def test_a_noted_problem_leaves_out_the_row_or_the_value(tmp_path: Path) -> None:
    rows = [row | {"age": age} for row, age in zip(ROWS, ["old", 30, 40], strict=True)]
    rows[1] |= {"finding": 7}
    (folder := write(tmp_path, rows)).joinpath("2.png").unlink()
    config = RunConfig.model_validate({"data": {"numbers": {"age": [0, 90]}}})
    noted: list[str] = []
    records = read_manifest(folder, config.data, config.task, noted.append).records
    assert list(records["study"]) == ["s1", "s3"] and list(records["image"]) == ["1.png", ""]
    assert np.isnan(records["table.age"][0]) and records["table.age"][1] == 40
    for words in ("outside task.classes", "which is no number", "no image file such as '2.png'"):
        assert any(words in note for note in noted)


@pytest.mark.parametrize("first", [0, 2**53 + 1])
def test_a_missing_value_of_one_patient_changes_no_other_row(tmp_path: Path, first: int) -> None:
    """Parquet has whole numbers; pandas reads a column of them as floating point once one is missing."""
    numbers = first + np.arange(20)
    frame = pd.DataFrame(
        {"patient": numbers, "study": numbers, "site": 1, "age": 40 + numbers, "y": numbers % 2}
    )
    config = RunConfig.model_validate(
        {
            "data": {
                "source": str(tmp_path),
                "patient": "patient",
                "study": "study",
                "site": "site",
                "image": "",
                "text": "age",
            },
            "task": {"label": "y", "classes": ["0", "1"]},
        }
    )

    def read(frame: pd.DataFrame) -> pd.DataFrame:
        table = pa.Table.from_pandas(frame.astype("Int64"), preserve_index=False)
        pq.write_table(table.replace_schema_metadata(None), tmp_path / "data.parquet")  # as others write it
        return read_manifest(tmp_path, config.data, config.task, lambda message: None).records[:20]

    whole = read(frame)
    newcomer = {"patient": 99, "study": 99, "site": 1, "age": 44, "y": 1}
    for column in newcomer:
        more = pd.concat([frame.astype(object), pd.DataFrame([{**newcomer, column: None}])], ignore_index=True)
        pd.testing.assert_frame_equal(read(more), whole)


@pytest.mark.parametrize("asked", ["text", "fold", "numbers", "where", "label"])
def test_a_cell_of_lists_is_a_cell_like_any(tmp_path: Path, asked: str) -> None:
    """Parquet has lists. Whether one patient's holds one thing or two must not decide whether a table can be read."""
    rows = [row | {"both": both} for row, both in zip(ROWS, [[1], [1, 2], []], strict=True)]
    named: dict[str, Any] = {"numbers": {"both": [0, 2]}, "where": {"both": [1]}}
    data = {} if asked == "label" else {asked: named.get(asked, "both")}
    task = {"label": "both"} if asked == "label" else {}
    config = RunConfig.model_validate({"data": {"image": "", **data}, "task": task})
    folder = write(tmp_path, rows, "data.parquet")
    read_manifest(folder, config.data, config.task, lambda message: None)
