"""Several views of a study: read from as many columns, pooled within each, told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from mmmed.check import check
from mmmed.config import RunConfig
from mmmed.data.image import preprocess, read_image
from mmmed.data.loader import load_records
from mmmed.data.manifest import read_manifest
from mmmed.errors import DataError
from mmmed.inference import details, predict, read_study
from mmmed.inference.pictures import pairs
from mmmed.inference.study import files, inputs
from mmmed.models import build_model


def a_run(*views: str, **data: Any) -> RunConfig:
    keys = {"image": "", "text": "", "views": views, "image_size": 16, **data}
    small = {"image_width": 8, "fusion": {"width": 8, "heads": 2}}
    return RunConfig.model_validate({"data": keys, "model": small})


RUN = a_run("frontal", "lateral")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four patients: both views, a frontal one, none, a lateral one."""
    rng = np.random.default_rng(0)
    for name in ("a-f", "a-l", "b-f", "d-l"):
        Image.fromarray(rng.integers(0, 256, (20, 30), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    pd.DataFrame(
        {
            "patient_id": list("abcd"), "study_id": range(4), "site": "north", "finding": [0, 1, 0, 1],
            "frontal": ["a-f.png", "b-f.png", "", ""], "lateral": ["a-l.png", "", "", "d-l.png"],
        }
    ).to_csv(tmp_path / "data.csv", index=False)  # fmt: skip
    return tmp_path


def test_each_view_is_read_as_an_image_and_one_that_is_missing_is_masked(folder: Path) -> None:
    manifest = read_manifest(folder, RUN.data, RUN.task)
    given = load_records(manifest, RUN, folder / "cache").modalities["views"][np.arange(4)]
    assert given.values.shape == (4, 1, 2, 16, 16)
    assert given.present.tolist() == [[True, True], [True, False], [False, False], [False, True]]
    for record, view, name in ((0, 0, "a-f"), (0, 1, "a-l"), (1, 0, "b-f"), (3, 1, "d-l")):
        image = preprocess(read_image(folder / f"{name}.png", channels=1), 16)
        np.testing.assert_allclose(given.values[record, :, view], image, atol=1e-4)
    assert not given.values[2].any() and not given.values[1, :, 1].any()
    facts = dict(check(folder, RUN.data, RUN.task).facts["Modalities"])
    assert facts == {"records with views": "75%"}


def test_which_view_it_is_counts_and_a_missing_one_counts_nothing(folder: Path) -> None:
    model = build_model(RUN).eval()
    nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    first, second = str(folder / "a-f.png"), str(folder / "a-l.png")
    asked = ({"frontal": first, "lateral": second}, {"frontal": second, "lateral": first}, {"frontal": first})
    told = [predict(model, RUN.task.target(), read_study(RUN, one))[0] for one in asked]
    assert np.abs(told[0] - told[1]).max() > 1e-6 and np.abs(told[0] - told[2]).max() > 1e-6
    assert inputs(RUN.data) == {"frontal": "frontal", "lateral": "lateral"}
    assert files(RUN.data) == {"frontal", "lateral"} and not files(RunConfig().data) - {"image"}


def test_an_explanation_shows_every_view(folder: Path) -> None:
    model = build_model(RUN).eval()
    nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    cells = {"frontal": str(folder / "a-f.png"), "lateral": str(folder / "a-l.png")}
    detail = details(model, RUN, read_study(RUN, cells), cells)["views"]
    assert detail.shown == "views" and detail.map is not None and detail.map.shape == (2, 2, 16, 16)
    assert [one.view for one in pairs(detail, 0)] == ["view 1 of 2", "view 2 of 2"]
    alone = details(model, RUN, read_study(RUN, {"frontal": cells["frontal"]}), cells)["views"]
    assert alone.map is not None and np.abs(alone.map[:, 0]).max() > 0 and not np.abs(alone.map[:, 1]).any()


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("../a-f.png", "row 2.*the lateral path leaves"),
        ("none.png", "row 2.*no lateral file such as 'none.png'"),
    ],
)
def test_a_path_that_cannot_be_used_is_told_with_its_column(folder: Path, cell: str, words: str) -> None:
    table = pd.read_csv(folder / "data.csv")
    table.loc[1, "lateral"] = cell
    table.to_csv(folder / "data.csv", index=False)
    with pytest.raises(DataError, match=words):
        read_manifest(folder, RUN.data, RUN.task)


def test_a_column_that_is_named_twice_or_not_at_all_is_refused(folder: Path) -> None:
    for views in (("frontal", "frontal"), ("frontal", "")):
        with pytest.raises(ValueError, match="views must be names of columns, each once"):
            a_run(*views)
    with pytest.raises(DataError, match=r"no column 'oblique' \(asked for by data\.views\)"):
        read_manifest(folder, a_run("frontal", "oblique").data, RUN.task)
