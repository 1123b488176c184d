from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmmed.config import RunConfig, from_flat, resolve
from mmmed.models import build_model
from mmmed.models.names import former_policy_name, in_words, policy_name

ROOT = Path(__file__).parents[3]
NO_FILES = {"data.image": "", "data.text": ""}
AGE = {"data.numbers": {"age": [0, 90]}}
NAMES: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "image and text": (
        {}, "resnet10+tiny", "resnet10+tiny", "resnet10 for images, tiny for text, attention fusion",
    ),
    "text alone": ({"data.image": ""}, "tiny", "resnet10+tiny", "tiny for text, attention fusion"),
    "weights": (
        {"data.text": "", "model.image_weights": "w.pt"}, "resnet10:w.pt", "resnet10:w.pt+tiny",
        "resnet10 for images, attention fusion",
    ),
    "a table alone": (
        {**NO_FILES, **AGE}, "table", "resnet10+tiny", "one layer for the table's values, attention fusion",
    ),
    "a table beside": (
        {"data.image": "", **AGE}, "tiny+table", "resnet10+tiny",
        "tiny for text, one layer for the table's values, attention fusion",
    ),
    "volumes alone": (
        {**NO_FILES, "data.volume": "ct", "model.volume": "resnet18"}, "3d-resnet18", "resnet10+tiny+3d-resnet18",
        "3D resnet18 for volumes, attention fusion",
    ),
    "a folder": (
        {"model.text": "/models/bert"}, "resnet10+text:/models/bert", "resnet10+/models/bert",
        "resnet10 for images, /models/bert for text, attention fusion",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMES)
def test_words_say_what_is_in_the_model_and_policies_know_both_its_names(case: str) -> None:
    flat, name, former, words = NAMES[case]
    config = from_flat(flat)
    assert (policy_name(config), former_policy_name(config), in_words(config)) == (name, former, words)


def test_a_path_cannot_take_another_models_name() -> None:
    paths = [
        {"data.text": "", "model.image_weights": "w.pt+tiny"},
        {"data.text": "", "model.image_weights": "w.pt%2Btiny"},
        {"data.image": "", "model.text": "resnet10:w.pt+tiny"},
        {"data.image": "", "model.text": "tiny+tiny"},
        {"data.image": "", "model.text": "resnet10"},
    ]
    names = {policy_name(from_flat(flat)) for flat in paths}
    assert len(names) == len(paths)
    assert not names & {"resnet10", "tiny", "tiny+tiny", "resnet10+tiny", "resnet10:w.pt+tiny"}


def test_a_run_of_volumes_and_a_table_is_described_by_what_is_in_it() -> None:
    config: RunConfig = resolve(ROOT / "configs" / "ct_volumes.toml").config
    assert policy_name(config) == "3d-resnet10+table"
    assert former_policy_name(config) == "resnet10+tiny+3d-resnet10"
    assert in_words(config).startswith("3D resnet10 for volumes, one layer for the table's values, ")
    assert build_model(config).modalities == ("volume", "table")
