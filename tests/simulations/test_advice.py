"""What is said before a run in which noise leaves little to learn from."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mmmed.config import RunConfig, resolve
from mmmed.models import build_model
from mmmed.models.head import linear_head
from privacy.planning import plan_training
from privacy.planning.settings import setting
from simulations.advice import advice, signal_to_noise

VALUES = ["data.image=", "data.text=", "data.numbers={age=[0, 90], crp=[0, 5]}", "training.batch_size=64"]
HEARTS = {"Cleveland": 217, "Hungary": 206, "Switzerland": 87, "Long Beach": 153}


def config(*assignments: str) -> RunConfig:
    return resolve(None, [*VALUES, *assignments]).config


def told(chosen: RunConfig, patients: dict[str, int]) -> str:
    return advice(chosen, build_model(chosen), patients)


def test_a_large_model_on_a_small_table_is_warned_of_with_the_lines_to_write() -> None:
    text = told(config("model.fusion.kind=attention"), HEARTS)
    assert text.startswith("warning: noise leaves this run little")
    assert 'Train less, a linear head: model.fusion.kind = "linear". Settings' in text
    assert "mmmed privacy plan -c FILE --patients 663 --sites 4 --epsilon 8 --delta 0.0001" in text


def test_the_lines_are_enough_where_there_are_patients() -> None:
    many = {name: 40 * count for name, count in HEARTS.items()}
    assert told(config(), many) == ""
    assert told(config("privacy.enabled=false", "model.fusion.kind=attention"), HEARTS) == ""
    few = told(config("privacy.target_epsilon=1"), HEARTS)
    assert few and "model.fusion.kind" not in few.split("Settings that fit")[0]  # it is linear already
    steps = ("federation.release=steps", "training.optimizer=sgd")
    assert told(config("privacy.target_epsilon=1", *steps), HEARTS) == ""  # nothing better is known


@pytest.mark.parametrize("release", ["rounds", "steps"])
def test_equal_sites_have_the_signal_of_one_times_the_root_of_their_number(release: str) -> None:
    more = ["federation.release=steps", "training.optimizer=sgd"] if release == "steps" else []
    chosen = config(*more)
    asked: dict[str, Any] = {
        "batch_size": 64,
        "local_epochs": chosen.training.local_epochs,
        "rounds": chosen.federation.rounds,
        "target_epsilon": 8.0,
        "delta": 1e-4,
    }
    event = plan_training(patients=300, rate=chosen.step_rate, **asked).event
    one = setting(event, 1e-4, 300, chosen.training.records_per_patient, 9.0)
    found = signal_to_noise(chosen, dict.fromkeys("abcd", 300))
    assert found == pytest.approx(math.sqrt(4) * one.signal_to_noise, rel=0.02)


def test_a_linear_head_freezes_only_what_has_learnt_elsewhere() -> None:
    assert linear_head(resolve(None).config) == {
        "model.image": "efficientnet-lite0",
        "model.text": "minilm",
        "model.fusion.kind": "linear",
        "model.trainable": "fusion-head",
    }
    volumes = resolve(None, ["data.image=", "data.text=", "data.volume=ct"]).config
    assert linear_head(volumes) == {"model.fusion.kind": "linear"}
    assert linear_head(config()) == {"model.fusion.kind": "linear"}  # all of a table's model is trained
    own = resolve(None, ["data.text=", "model.image=resnet18", "model.image_weights=w.pth"]).config
    assert "model.image" not in linear_head(own) and linear_head(own)["model.trainable"] == "fusion-head"
