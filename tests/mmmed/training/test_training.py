from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mmmed.config import RunConfig
from mmmed.data.batch import Batch, Input, parts
from mmmed.tasks import Classification
from mmmed.training import PlainStep, make_optimizer, train
from privacy.dpsgd import PrivateStep

CLASSES = Classification().target()


class Scale(nn.Module):
    """Logit = w * image; small enough to do by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.5))

    def forward(self, batch: Batch) -> torch.Tensor:
        return (self.w * batch.inputs["image"].values).to(self.w.dtype)


def batch_of(values: list[float], labels: list[int], units: list[int]) -> Batch:
    rows = len(values)
    return Batch(
        inputs={"image": Input(torch.tensor(values).view(rows, 1), torch.ones(rows, 1, dtype=torch.bool))},
        label=torch.tensor(labels, dtype=torch.int64),
        unit=torch.tensor(units, dtype=torch.int64),
    )


def test_a_plain_step_weighs_patients_alike_however_many_records_they_have() -> None:
    batch = batch_of([1.0, -2.0, 3.0], [1, 0, 1], [0, 0, 1])
    model = Scale()
    step = PlainStep(torch.optim.SGD(model.parameters(), lr=1.0))
    w = torch.tensor(0.5, requires_grad=True)
    loss = CLASSES.losses(w * batch.inputs["image"].values, batch.label)
    ((loss[0] + loss[1]) / 2 / 2 + loss[2] / 2).backward()
    steps = train(model, RunConfig(), step, [np.array([0, 1])], lambda *_: batch)
    assert steps == 1
    torch.testing.assert_close(model.w.detach(), 0.5 - w.grad)


class Layer(nn.Module):
    """One linear layer, and the types that it was given to work in."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)
        self.seen: set[torch.dtype] = set()

    def forward(self, batch: Batch) -> torch.Tensor:
        logits = self.linear(batch.inputs["image"].values)
        self.seen.add(logits.dtype)
        return logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("private", [False, True])
def test_in_bfloat16_the_model_runs_and_float32_is_what_is_kept(private: bool) -> None:
    batch, moved = batch_of([0.5, -2.0, 3.0], [1, 0, 1], [0, 0, 1]), {}
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        torch.manual_seed(0)
        model = Layer()
        start = model.linear.weight.detach().clone()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        step = (
            PrivateStep(
                model,
                optimizer,
                noise_multiplier=0.0,
                allow_noiseless=True,
                max_grad_norm=10.0,
                expected_units=2,
            )
            if private
            else PlainStep(optimizer)
        )
        draws = [np.array([0, 1])]
        config = RunConfig.model_validate({"training": {"precision": precision}})
        train(model, config, step, draws, lambda *_: batch)
        assert model.seen == {dtype}
        assert model.linear.weight.dtype == torch.float32
        moved[precision] = model.linear.weight.detach() - start
    assert not torch.equal(moved["float32"], moved["bfloat16"])
    torch.testing.assert_close(moved["float32"], moved["bfloat16"], rtol=2e-2, atol=0)


class Recorded:
    """A step that only notes what it is given."""

    def __init__(self) -> None:
        self.parts: list[list[int]] = []
        self.shapes: list[int] = []
        self.steps: list[int] = []

    def accumulate(
        self, record_losses: Callable[[], torch.Tensor], units: torch.Tensor, copies: int = 0
    ) -> None:
        assert record_losses().shape == (len(units) + copies,)
        self.shapes.append(len(units) + copies)
        self.parts.append(units.tolist())

    def finish(self) -> None:
        self.steps.append(len(self.parts))


def test_empty_draws_are_steps_and_the_private_step_sees_them() -> None:
    empty, full, step = batch_of([], [], []), batch_of([1.0], [1], [0]), Recorded()
    draws = [np.empty(0, dtype=np.int64), np.array([3])]
    after: list[int] = []
    steps = train(
        Scale(),
        RunConfig(),
        step,
        draws,
        lambda _, patients: full if len(patients) else empty,
        after_step=lambda: after.append(len(step.steps)),
    )
    assert (steps, step.steps, step.parts, after) == (2, [0, 1], [[0]], [1, 2])


@pytest.mark.parametrize("volume", ["", "volume"])
def test_every_step_but_a_plain_one_is_given_parts_of_one_shape(volume: str) -> None:
    config, step = RunConfig.model_validate({"data": {"volume": volume}}), Recorded()
    for patients in (1, 3, 40):
        batch = batch_of([1.0] * patients, [1] * patients, list(range(patients)))
        train(Scale(), config, step, [np.arange(patients)], lambda *_, batch=batch: batch)
    assert set(step.shapes) == {4 if volume else 32} and sum(map(len, step.parts)) == 44


def test_a_plain_step_is_given_no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    accumulate = PlainStep.accumulate

    def noted(self: PlainStep, losses: Callable[[], torch.Tensor], units: torch.Tensor, copies: int) -> None:
        given.append(copies)
        accumulate(self, losses, units, copies)

    monkeypatch.setattr(PlainStep, "accumulate", noted)
    model, batch = Scale(), batch_of([1.0] * 3, [1] * 3, [0, 1, 2])
    step = PlainStep(torch.optim.SGD(model.parameters(), lr=1.0))
    train(model, RunConfig(), step, [np.arange(3)], lambda *_: batch)
    assert given == [0]


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 12))
def test_parts_hold_every_record_once_and_no_patient_in_two(sizes: list[int], limit: int) -> None:
    units = torch.tensor([unit for unit, size in enumerate(sizes) for _ in range(size)], dtype=torch.int64)
    cut, filled = list(parts(units, limit)), list(parts(units, limit, filled=True))
    assert [row for rows, _ in cut for row in rows.tolist()] == list(range(len(units)))
    owners = [set(unit.tolist()) for _, unit in cut]
    assert sum(len(own) for own in owners) == len(set(units.tolist()))
    assert all(len(rows) <= limit or len(own) == 1 for (rows, _), own in zip(cut, owners, strict=True))
    assert all(len(rows) for rows, _ in cut)
    for (rows, unit), (more, same) in zip(cut, filled, strict=True):
        assert (
            len(more) % limit == 0 and len(more) - len(rows) < limit
        )  # of one shape, but for a unit that has more
        assert (
            torch.equal(more[: len(rows)], rows)
            and torch.equal(same, unit)
            and torch.equal(units[rows], unit)
        )
        assert set(more.tolist()) == set(rows.tolist())


def test_a_step_in_parts_is_the_step_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    units = [0, 0, 1, 2, 2, 2, 3]
    batch = batch_of([1.0, -2.0, 3.0, 0.5, 0.1, -1.0, 2.0], [1, 0, 1, 1, 0, 0, 1], units)
    results = []
    for size in (1, 3, 100):
        monkeypatch.setattr("mmmed.training.loop.part_size", lambda _, size=size: size)
        model = Scale()
        train(
            model,
            RunConfig(),
            PlainStep(torch.optim.SGD(model.parameters(), lr=1.0)),
            [np.arange(4)] * 3,
            lambda *_: batch,
        )
        results.append(model.w.detach())
    torch.testing.assert_close(results[0], results[2])
    torch.testing.assert_close(results[1], results[2])


def test_training_learns() -> None:
    torch.manual_seed(0)
    model = Scale()
    x = torch.randn(64)
    batch = batch_of(x.tolist(), (x > 0).long().tolist(), list(range(64)))
    before = F.softplus(-model.w * x.abs()).mean()
    step = PlainStep(torch.optim.SGD(model.parameters(), lr=1.0))
    train(model, RunConfig(), step, [np.arange(64)] * 20, lambda *_: batch)
    assert F.softplus(-model.w * x.abs()).mean() < 0.6 * before


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)])
def test_the_optimiser_holds_what_is_trainable(name: str, kind: type) -> None:
    training = RunConfig.model_validate({"training": {"optimizer": name, "learning_rate": 0.25}}).training
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    optimizer = make_optimizer(model, training)
    assert isinstance(optimizer, kind)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model[1].parameters()]
    assert optimizer.param_groups[0]["lr"] == 0.25
