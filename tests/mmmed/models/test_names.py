from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmmed.config import RunConfig, from_flat, resolve
from mmmed.models import build_model
from mmmed.models.names import in_words, policy_name

ROOT = Path(__file__).parents[3]
NAMES: dict[str, tuple[dict[str, Any], str, str]] = {
    "image and text": ({}, "resnet10+tiny", "resnet10 for images, tiny for text, attention fusion"),
    "text alone": ({"data.image": ""}, "resnet10+tiny", "tiny for text, attention fusion"),
    "weights": (
        {"data.text": "", "model.image_weights": "w.pt"},
        "resnet10:w.pt+tiny",
        "resnet10 for images, attention fusion",
    ),
    "a table alone": (
        {"data.image": "", "data.text": "", "data.numbers": {"age": [0, 90]}},
        "resnet10+tiny",
        "one layer for the table's values, attention fusion",
    ),
    "a table beside": (
        {"data.image": "", "data.numbers": {"age": [0, 90]}},
        "resnet10+tiny",
        "tiny for text, one layer for the table's values, attention fusion",
    ),
}


@pytest.mark.parametrize("case", NAMES)
def test_words_say_what_is_in_the_model_and_policies_know_its_name(case: str) -> None:
    flat, name, words = NAMES[case]
    config = from_flat(flat)
    assert (policy_name(config), in_words(config)) == (name, words)


def test_a_run_of_volumes_and_a_table_is_described_by_what_is_in_it() -> None:
    config: RunConfig = resolve(ROOT / "configs" / "ct_volumes.toml").config
    assert policy_name(config) == "resnet10+tiny+3d-resnet10"
    assert in_words(config).startswith("3D resnet10 for volumes, one layer for the table's values, ")
    assert build_model(config).modalities == ("volume", "table")
