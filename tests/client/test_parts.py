"""How many records are computed together: a public number, which the configuration alone decides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from client.model import made_up
from client.trial import try_run
from mmmed.config import RunConfig
from mmmed.training import part_size

LINEAR = {"fusion": {"kind": "linear"}, "trainable": "fusion-head"}
VOLUMES = {"image": "", "text": "", "volume": "volume", "volume_size": 16}
TABLE = {"numbers": {"age": [0, 100]}}


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, 32),
        ({"data": VOLUMES}, 4),
        ({"model": {"trainable": "fusion-head"}}, 32),
        ({"model": LINEAR}, 256),
        ({"model": LINEAR, "data": VOLUMES}, 256),
        ({"model": LINEAR, "data": TABLE}, 256),
        ({"model": LINEAR | {"trainable": "full"}}, 32),
        ({"model": LINEAR | {"trainable": "norm-bias"}, "data": VOLUMES}, 4),
    ],
)
def test_only_what_is_trained_asks_for_small_parts(changes: dict[str, Any], size: int) -> None:
    assert part_size(RunConfig.model_validate(changes)) == size


@pytest.mark.parametrize("most", [1, 2, 5])
def test_a_run_is_tried_on_more_than_one_part(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[np.ndarray] = []

    def train(*arguments: Any, **_: Any) -> None:
        drawn.extend(arguments[3])

    monkeypatch.setattr("client.trial.train", train)
    config = RunConfig.model_validate({"model": LINEAR, "training": {"records_per_patient": most}})
    try_run.__wrapped__(config)
    taken = np.minimum(np.bincount(made_up(config).patient), most)[drawn[0]].sum()
    assert part_size(config) < taken < 2 * part_size(config)
