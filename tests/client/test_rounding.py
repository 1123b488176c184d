"""How a record's numbers are rounded does not depend on who else is there, whatever parameters are chosen."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from client.audit import run_subject
from client.model import made_up, open_model
from mmmed.config import RunConfig
from mmmed.data.batch import Batch, parts
from mmmed.data.loader import Records
from mmmed.data.made_up import made_up_records
from mmmed.inference.predict import predict
from mmmed.models import FrozenEncoders
from mmmed.models.build import build_model
from mmmed.tasks import Classification
from mmmed.training.loop import part_size, train
from privacy.accounting import DpSgdEvent
from privacy.dpsgd import PrivateStep

CLASSES = Classification().target()
CONFIGS: dict[str, dict[str, Any]] = {
    "images and notes": {},
    "frozen encoders": {"model": {"trainable": "fusion-head"}},
    "low rank": {"model": {"trainable": "lora"}},
    "norms and biases": {"model": {"trainable": "norm-bias"}},
    "linear fusion": {"model": {"fusion": {"kind": "linear"}}},
    "linear fusion of frozen encoders": {"model": {"fusion": {"kind": "linear"}, "trainable": "fusion-head"}},
    "bfloat16": {"training": {"precision": "bfloat16"}},
    "volumes and a table": {
        "data": {
            "image": "",
            "text": "",
            "volume": "volume",
            "volume_size": 16,
            "numbers": {"age": [0, 100]},
            "categories": {"sex": ["f", "m"]},
        }
    },
}


@pytest.fixture(params=[1, pytest.param(2, marks=pytest.mark.slow)], autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> RunConfig:
    return RunConfig.model_validate(CONFIGS[request.param])


def first_records(records: Records, patients: np.ndarray) -> np.ndarray:
    return np.array([np.flatnonzero(records.patient == patient)[0] for patient in patients])


def amplified(config: RunConfig, records: Records, rows: np.ndarray, seed: int) -> nn.Module:
    """A model whose logits are 1e9 times the rounding of what is 0 for these records."""
    model = copy.deepcopy(open_model(config)).train()
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    seen: list[torch.Tensor] = []
    hook = last.register_forward_hook(lambda _, given, __: seen.append(given[0].detach().double()))
    with torch.no_grad():
        model(records.batch(rows, np.arange(len(rows))))
    hook.remove()
    torch.manual_seed(seed)
    read = torch.linalg.svd(seen[-1])[2][: len(rows)]
    weight = torch.randn(last.weight.shape[0], read.shape[1], dtype=torch.float64)
    with torch.no_grad():
        last.weight.copy_(1e9 * (weight - weight @ read.T @ read))
        if last.bias is not None:
            last.bias.zero_()
    return model


def clipped_sum(model: nn.Module, config: RunConfig, records: Records, patients: np.ndarray) -> np.ndarray:
    model = copy.deepcopy(model)
    sums: list[np.ndarray] = []
    step = PrivateStep(
        model,
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0),
        noise_multiplier=0.0,
        max_grad_norm=1.0,
        expected_units=1.0,
        allow_noiseless=True,
        tried=True,
    )
    step.optimizer.attach_step_hook(
        lambda taken: sums.append(np.concatenate([p.grad.flatten().numpy() for p in taken.params]))
    )

    def make_batch(_: int, drawn: np.ndarray) -> Batch:
        return records.batch(first_records(records, drawn), np.arange(len(drawn)))

    train(model, config, step, [patients], make_batch)
    return sums[0].astype(np.float64)


def moved(config: RunConfig, seed: int) -> float:
    """How far a fourth patient moves the sum of three, first or last of them."""
    records = made_up(config)
    patients = np.random.default_rng(seed).permutation(records.patients)[:4]
    model = amplified(config, records, first_records(records, patients[:3]), seed)
    three = clipped_sum(model, config, records, patients[:3])
    four = (clipped_sum(model, config, records, order) for order in (patients, np.roll(patients, 1)))
    return max(float(np.linalg.norm(one - three)) for one in four)


def test_a_patient_moves_the_sum_by_its_own_part_where_rounding_is_all_there_is(config: RunConfig) -> None:
    assert max(moved(config, seed) for seed in range(4)) <= 1 + 1e-3


def test_parts_of_another_shape_would_show_a_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the test before this one can fail."""
    monkeypatch.setattr("mmmed.training.loop.parts", lambda unit, size, *, filled: parts(unit, size))
    assert max(moved(RunConfig(), seed) for seed in range(4)) > 1.1


def test_predictions_are_the_same_bits_in_any_company(config: RunConfig) -> None:
    records = made_up(config)
    rows = first_records(records, np.arange(3))
    model = amplified(config, records, rows, seed=0)
    own = np.zeros(len(records), dtype=bool)
    own[rows] = True
    alone, together = predict(model, CLASSES, records.part(own)), predict(model, CLASSES, records)
    assert (alone == together[own]).all()


def test_features_of_a_frozen_encoder_are_the_same_bits_in_any_company(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"model": {"trainable": "fusion-head"}})
    records = made_up_records(config, 12)
    one, all_of_them = (
        FrozenEncoders(build_model(config), config, tmp_path / name).records(records)
        for name in ("one", "all")
    )
    rows = np.arange(len(records))
    for name in ("image", "text"):
        together = all_of_them.modalities[name].values[rows]
        for row in rows[:6]:
            assert torch.equal(one.modalities[name].values[rows[row : row + 1]][0], together[row]), (
                name,
                row,
            )


def test_the_audit_gives_the_step_what_training_gives_it() -> None:
    shapes: list[tuple[int, int]] = []
    with run_subject(RunConfig(), DpSgdEvent(1.0, 0.1, 10)) as subject:
        model = subject.make_model()
        step = subject.make_step(model, torch.optim.SGD(model.parameters(), lr=0.0), 1.0)
        rows, units = subject.draw(np.arange(24))

        def losses(part: torch.Tensor) -> torch.Tensor:
            shapes.append((len(part), len(rows)))
            return subject.losses(model, rows[part])

        step(losses, units)
    assert (
        len(shapes) > 1
        and {shape for shape, _ in shapes} == {32}
        and shapes[0][1] > 32 == part_size(RunConfig())
    )
