from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmmed.config import DataConfig, RunConfig
from mmmed.data.manifest import read_manifest
from mmmed.errors import DataError
from mmmed.modalities.table import encode_table, widths

NUMBERS = {"crp": [0, 5], "age": [0, 90]}
CATEGORIES = {"sex": ["F", "M"], "stage": ["1", "2", "3"]}
ROWS = [
    {"age": "45", "crp": "2.5", "sex": "F", "stage": "3"},
    {"age": "", "crp": "200", "sex": "", "stage": "1.0"},
    {"age": "90", "crp": "", "sex": "M", "stage": ""},
]


def encoded(folder: Path, rows: list[dict[str, Any]], **data: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Through the table on disk, as training reads it."""
    rows = [
        {"patient_id": f"p{n}", "study_id": n, "site": "a", "finding": n % 2} | row
        for n, row in enumerate(rows)
    ]
    pd.DataFrame(rows).to_csv(folder / "data.csv", index=False)
    given = {"image": "", "text": "", "numbers": NUMBERS, "categories": CATEGORIES} | data
    config = RunConfig.model_validate({"data": given})
    return encode_table(read_manifest(folder, config.data, config.task).records, config.data)


def test_each_column_has_its_features_and_what_is_missing_is_zero_and_masked(tmp_path: Path) -> None:
    features, present = encoded(tmp_path, ROWS)
    assert features.dtype == torch.float32 and present.dtype == torch.bool
    # age, crp | sex, stage: each sorted by name
    assert widths(RunConfig.model_validate({"data": {"numbers": NUMBERS, "categories": CATEGORIES}}).data) == [
        1, 1, 2, 3,
    ]  # fmt: skip
    beyond = 1 + np.log(79)  # (200 - 2.5) / 2.5
    expected = [[0, 0, 1, 0, 0, 0, 1], [0, beyond, 0, 0, 1, 0, 0], [1, 0, 0, 1, 0, 0, 0]]
    torch.testing.assert_close(features, torch.tensor(expected, dtype=torch.float32))
    assert present.tolist() == [
        [True, True, True, True], [False, True, False, True], [True, False, True, False],
    ]  # fmt: skip


def test_one_record_depends_on_no_other(tmp_path: Path) -> None:
    features, _ = encoded(tmp_path, ROWS)
    other, _ = encoded(tmp_path, [ROWS[0], ROWS[1], {"age": "3", "crp": "9e9", "sex": "F", "stage": "2"}])
    torch.testing.assert_close(features[:2], other[:2], rtol=0, atol=0)


def test_the_order_in_the_configuration_does_not_matter(tmp_path: Path) -> None:
    turned = {
        "numbers": dict(reversed(NUMBERS.items())),
        "categories": dict(reversed(CATEGORIES.items())),
    }
    torch.testing.assert_close(encoded(tmp_path, ROWS, **turned)[0], encoded(tmp_path, ROWS)[0])


@given(st.lists(st.floats(-1e12, 1e12), min_size=2, max_size=20, unique=True))
def test_numbers_keep_their_order_and_stay_moderate(values: list[float]) -> None:
    data = DataConfig.model_validate({"numbers": {"x": [-3, 11]}})
    records = pd.DataFrame({"table.x": sorted(values)})
    features, present = encode_table(records, data)
    assert present.all() and (features.diff(dim=0) >= 0).all() and features.abs().max() < 30


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"crp": "<0.5"}, ["'crp'", "'<0.5'", "row 2", "no number", "empty"]),
        ({"crp": "inf"}, ["'crp'", "row 2", "no number"]),
        ({"sex": "female"}, ["'sex'", "'female'", "row 2", "data.categories"]),
        ({"stage": "4"}, ["'stage'", "'4'", "row 2"]),
    ],
)
def test_what_was_not_declared_is_refused_with_the_place(
    tmp_path: Path, change: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        encoded(tmp_path, [ROWS[0], ROWS[1] | change, ROWS[2]])
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_table_without_any_value_is_refused_and_one_empty_column_is_not(tmp_path: Path) -> None:
    features, present = encoded(tmp_path, [row | {"crp": ""} for row in ROWS])
    assert not present[:, 1].any() and (features[:, 1] == 0).all()
    with pytest.raises(DataError, match="no values anywhere"):
        encoded(tmp_path, [dict.fromkeys(row, "") for row in ROWS])
    with pytest.raises(DataError, match=r"no column 'ldh' \(asked for by data\.numbers\)"):
        encoded(tmp_path, ROWS, numbers={"ldh": [0, 250]})
