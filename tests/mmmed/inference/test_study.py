"""One study by name: what may be given, and what of it is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmmed.config import RunConfig
from mmmed.errors import DataError
from mmmed.inference import inputs, read_study

TABLE = {"numbers": {"age": [0, 90], "crp": [0, 5]}, "categories": {"sex": ["F", "M"]}}


def config(**data: object) -> RunConfig:
    return RunConfig.model_validate({"data": {"image": "", "text": "", **TABLE, **data}})


def test_values_of_a_table_go_by_their_columns_and_files_by_their_modality() -> None:
    assert set(inputs(config(image="film").data)) == {"image", "age", "crp", "sex"}
    assert inputs(config(image="film").data)["image"] == "film"


def test_values_are_scaled_as_in_training_and_what_is_not_given_is_missing() -> None:
    study = read_study(config(), {"age": "45", "sex": "M"})
    table = study.modalities["table"][np.zeros(1, dtype=np.int64)]
    torch.testing.assert_close(table.values, torch.tensor([[0.0, 0.0, 0.0, 1.0]]))
    assert table.present.tolist() == [[True, False, True]]


def test_rows_that_training_would_leave_out_can_be_asked_about() -> None:
    run = config(where={"view": "frontal"}, fold="fold", table="studies.csv")
    assert read_study(run, {"age": "45"}).patients == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"age": "old"}, "column 'age' holds 'old'.* no number"),
        ({"sex": "X"}, "column 'sex' holds 'X'.*outside"),
        ({"weight": "80"}, "does not read 'weight'. It reads: age, crp, sex"),
        ({"sex": "\udcff"}, "sex: expected text in UTF-8"),
        ({"age": ""}, "nothing that the model reads was given"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, str], told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        read_study(config(), given)
    assert "/tmp" not in str(caught.value)
