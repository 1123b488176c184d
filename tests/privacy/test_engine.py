"""The entrance for those who know Opacus: the same step, loader and account as the parts it is made of."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from opacus.schedulers import ExponentialNoise
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from privacy.accounting import DpSgdEvent, epsilon
from privacy.engine import PrivacyEngine
from privacy.errors import AccountingError, SamplingError, StepError, UnsupportedModel
from tests.oracles.clipping import clipped_sum

N = 40
X = torch.randn(N, 5, generator=torch.Generator().manual_seed(1))
Y = torch.arange(N) % 3
PATIENTS = [f"p{i // 3}" for i in range(N)]  # 13 patients of 3 records and one of 1
ENGINES = ["bookkeeping", "hooks", "ghost"]


def make(account: PrivacyEngine | None = None, batch: int = 8, workers: int = 0, **changes: object):  # type: ignore[no-untyped-def] # noqa: ANN201
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    options: dict[str, object] = {
        "module": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=1.0),
        "data_loader": DataLoader(TensorDataset(X, Y), batch_size=batch, shuffle=True, num_workers=workers),
        "noise_multiplier": 1.0,
        "max_grad_norm": 0.5,
    }
    return (account or PrivacyEngine()).make_private(**(options | changes))  # type: ignore[arg-type]


def losses(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x), y, reduction="none")


def run(model: nn.Module, optimizer: torch.optim.Optimizer, loader: object) -> list[torch.Tensor]:
    seen = []
    for x, y in loader:  # type: ignore[attr-defined]
        seen.append(x)
        optimizer.zero_grad()
        optimizer.step(lambda x=x, y=y: losses(model, x, y))
    return seen


@pytest.mark.parametrize("kind", ENGINES)
def test_a_pass_is_charged_at_the_true_rate(kind: str) -> None:
    engine = PrivacyEngine()
    model, optimizer, loader = make(engine, batch=7, engine=kind)
    names = list(model.state_dict())
    assert len(loader) == 6
    run(model, optimizer, loader)
    run(model, optimizer, loader)
    assert engine.events == (DpSgdEvent(1.0, 7 / 40, 12),)
    assert engine.get_epsilon(1e-3) == epsilon([DpSgdEvent(1.0, 7 / 40, 12)], 1e-3)
    assert engine.report(1e-3).cross_check.rdp >= engine.get_epsilon(1e-3)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("kind", ENGINES[:2])
def test_patients_come_whole_and_are_clipped_once(kind: str) -> None:
    engine = PrivacyEngine()
    model, optimizer, loader = make(engine, batch=4, units=PATIENTS, max_physical_batch_size=7, engine=kind)
    optimizer.noise_multiplier = 1e-6  # so that the sums show
    rows = {tuple(x.tolist()): i for i, x in enumerate(X)}
    parts: list[list[int]] = []
    before, moved, batches = copy.deepcopy(model), False, 0
    for x, y in loader:
        indices = [rows[tuple(row.tolist())] for row in x]
        assert len(indices) <= 7
        parts.append(indices)
        optimizer.step(lambda x=x, y=y: losses(model, x, y))
        optimizer.zero_grad()
        moved = any(
            not torch.equal(a, b) for a, b in zip(before.parameters(), model.parameters(), strict=True)
        )
        if moved:
            batches += 1
            chosen = [i for part in parts for i in part]
            for patient in {PATIENTS[i] for i in chosen}:
                assert chosen.count(PATIENTS.index(patient)) == 1
                assert sum(PATIENTS[i] == patient for i in chosen) == PATIENTS.count(patient)
            if chosen:
                ids = torch.tensor([int(PATIENTS[i][1:]) for i in chosen])
                expected = clipped_sum(
                    before,
                    lambda m, r, c=chosen: losses(m, X[c[r]][None].double(), Y[c[r]][None]).sum(),
                    ids,
                    0.5,
                )
                for (name, old), new in zip(before.named_parameters(), model.parameters(), strict=True):
                    assert torch.allclose(4.0 * (old - new).double(), expected.sums[name], atol=2e-5), name
            before, parts = copy.deepcopy(model), []
    assert batches == len(loader) == 4  # one move, and one portion of noise, a batch
    assert engine.events == (DpSgdEvent(1e-6, 4 / 14, 4),)


def test_at_most_so_many_records_of_a_patient() -> None:
    model, optimizer, loader = make(batch=14, units=PATIENTS, records_per_unit=2)  # rate 1
    (batch,) = run(model, optimizer, loader)
    assert len(batch) == 13 * 2 + 1
    assert len(run(model, optimizer, loader)[0].unique(dim=0)) == 27


def test_an_empty_batch_takes_a_step_of_noise_and_is_charged() -> None:
    engine = PrivacyEngine()
    model, optimizer, loader = make(engine, batch=1, units=["a"] + ["b"] * 39)
    empty = 0
    for _ in range(10):
        for x, y in loader:
            before = model[0].weight.detach().clone()
            optimizer.step(lambda x=x, y=y: losses(model, x, y))
            assert not torch.equal(before, model[0].weight)
            if len(x) == 0:
                empty += 1
                assert x.shape == (0, 5)
                assert y.dtype == torch.int64
    assert empty  # a quarter of 20 batches
    assert engine.events == (DpSgdEvent(1.0, 0.5, 20),)


def test_workers_keep_batches_and_patients_together() -> None:
    model, optimizer, loader = make(batch=4, workers=2, units=PATIENTS, max_physical_batch_size=5)
    for _ in range(2):
        run(model, optimizer, loader)  # the step refuses units that do not fit the losses


def test_every_batch_needs_its_own_step() -> None:
    model, optimizer, loader = make()
    with pytest.raises(StepError, match="closure"):
        optimizer.step()
    with pytest.raises(StepError, match="exactly one"):
        optimizer.step(lambda: losses(model, X, Y))
    with pytest.raises(SamplingError, match="not stepped on"):
        for _ in loader:
            pass
    for x, y in loader:
        optimizer.step(lambda x=x, y=y: losses(model, x, y))
        with pytest.raises(StepError, match="exactly one"):
            optimizer.step(lambda x=x, y=y: losses(model, x, y))
        break


def test_a_batch_left_half_way_is_charged_and_forgotten() -> None:
    engine = PrivacyEngine()
    model, optimizer, loader = make(engine, batch=40, max_physical_batch_size=10)
    for x, y in loader:
        optimizer.step(lambda x=x, y=y: losses(model, x, y))
        break
    run(model, optimizer, loader)
    assert engine.events == (DpSgdEvent(1.0, 1.0, 2),)


def test_a_failed_step_was_charged() -> None:
    engine = PrivacyEngine()
    model, optimizer, loader = make(engine, batch=40)
    with pytest.raises(StepError, match="one loss a record"):
        for x, y in loader:
            optimizer.step(lambda x=x, y=y: losses(model, x, y).mean())
    assert engine.events == (DpSgdEvent(1.0, 1.0, 1),)


def test_a_noise_schedule_is_charged_as_it_runs() -> None:
    engine = PrivacyEngine()
    model, optimizer, loader = make(engine, batch=20)
    schedule = ExponentialNoise(optimizer, gamma=0.5)
    for _ in range(2):
        run(model, optimizer, loader)
        schedule.step()
    assert engine.events == (DpSgdEvent(1.0, 0.5, 2), DpSgdEvent(0.5, 0.5, 2))


def test_noise_may_not_fall_after_it_was_charged() -> None:
    model, optimizer, loader = make(batch=20, sampling="shuffle")
    with pytest.raises(StepError, match="fell from"):
        for x, y in loader:
            optimizer.step(lambda x=x, y=y: losses(model, x, y))
            optimizer.noise_multiplier = 0.5


def test_shuffling_takes_everybody_once_and_is_charged_without_amplification() -> None:
    engine = PrivacyEngine()
    model, optimizer, loader = make(engine, sampling="shuffle", units=PATIENTS, batch=4)
    for _ in range(3):
        seen = torch.cat(run(model, optimizer, loader))
        assert sorted(seen.tolist()) == sorted(X.tolist())
    assert engine.events == (DpSgdEvent(1.0, 1.0, 3),)


@pytest.mark.parametrize("sampling", ["balls_in_bins", "fixed", None])
def test_sampling_without_an_accountant_is_refused(sampling: object) -> None:
    with pytest.raises(SamplingError, match="accountant"):
        make(sampling=sampling)


def test_learning_rate_schedulers_and_step_hooks_work() -> None:
    model, optimizer, loader = make(batch=20)
    calls: list[object] = []
    optimizer.attach_step_hook(calls.append)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
    run(model, optimizer, loader)
    scheduler.step()
    assert len(calls) == 2
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_the_least_noise_that_keeps_a_target_earlier_steps_included() -> None:
    engine = PrivacyEngine()
    run(*make(engine, noise_multiplier=2.0))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3))
    model, optimizer, loader = engine.make_private_with_epsilon(
        module=model,
        optimizer=torch.optim.Adam(model.parameters()),
        data_loader=DataLoader(TensorDataset(X, Y), batch_size=8),
        target_epsilon=4.0,
        target_delta=1e-3,
        epochs=2,
        max_grad_norm=1.0,
    )
    for _ in range(2):
        run(model, optimizer, loader)
    assert 3.9 < engine.get_epsilon(1e-3) <= 4.0


@pytest.mark.parametrize("kind", ENGINES)
def test_checkpoints_are_interchangeable_with_ordinary_training(kind: str) -> None:
    engine = PrivacyEngine()
    model, optimizer, loader = make(engine, engine=kind)
    run(model, optimizer, loader)
    saved = json.loads(json.dumps(engine.state_dict()))
    plain = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    plain.load_state_dict(model.state_dict())
    ordinary = torch.optim.SGD(plain.parameters(), lr=0.3)
    ordinary.load_state_dict(optimizer.state_dict())
    assert ordinary.param_groups[0]["lr"] == 1.0
    losses(plain, X, Y).mean().backward()
    ordinary.step()
    for other in ENGINES:
        again = PrivacyEngine()
        again.load_state_dict(saved)
        model, optimizer, loader = make(again, engine=other)
        model.load_state_dict(plain.state_dict())
        optimizer.load_state_dict(ordinary.state_dict())
        run(model, optimizer, loader)
        assert again.events == (DpSgdEvent(1.0, 0.2, 10),)


def test_checkpoints_go_to_opacus_and_back() -> None:
    model, optimizer, loader = make(PrivacyEngine())
    run(model, optimizer, loader)
    theirs = GradSampleModule(
        nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)), loss_reduction="sum"
    )
    inner = torch.optim.SGD(theirs.parameters(), lr=0.3)
    their_optimizer = DPOptimizer(inner, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=len(X))
    theirs._module.load_state_dict(model.state_dict())
    their_optimizer.load_state_dict(optimizer.state_dict())
    assert their_optimizer.param_groups[0]["lr"] == 1.0
    before = copy.deepcopy(model.state_dict())
    losses(theirs, X, Y).sum().backward()
    their_optimizer.step()
    assert not any(torch.equal(value, before[name]) for name, value in theirs._module.state_dict().items())
    model.load_state_dict(theirs._module.state_dict())
    optimizer.load_state_dict(their_optimizer.state_dict())
    run(model, optimizer, loader)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


class Endless(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self):  # type: ignore[no-untyped-def]
        yield X[0], Y[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"units": PATIENTS[:-1]}, "40 records"),
        ({"batch": 41}, "at most that many"),
        ({"records_per_unit": 0}, "records_per_unit"),
        ({"max_physical_batch_size": 0}, "max_physical_batch_size"),
        ({"data_loader": DataLoader(Endless(), batch_size=1)}, "no length"),
        ({"data_loader": DataLoader(TensorDataset(X, Y), batch_size=None)}, "batch_size"),
        ({"data_loader": DataLoader(TensorDataset(X[:0], Y[:0]), batch_size=1)}, "empty"),
    ],
)
def test_what_cannot_be_sampled_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(SamplingError, match=reason):
        make(**changes)  # type: ignore[arg-type]


def test_a_model_that_mixes_records_is_refused_before_it_moves() -> None:
    model = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))
    with pytest.raises(UnsupportedModel, match="BatchNorm1d"):
        make(module=model, optimizer=torch.optim.SGD(model.parameters(), lr=1.0))


def test_an_account_that_is_none_is_refused() -> None:
    with pytest.raises(AccountingError):
        PrivacyEngine().load_state_dict({"events": [{"version": 1}]})


@pytest.mark.parametrize("kind", ENGINES)
def test_bfloat16_autocast(kind: str) -> None:
    """The mode is on while the losses are computed, not where the step is called."""
    model, optimizer, loader = make(batch=40, engine=kind)
    for x, y in loader:

        def low(x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return losses(model, x, y).float()

        optimizer.step(low)
    assert all(p.dtype == torch.float32 and bool(torch.isfinite(p).all()) for p in model.parameters())


def test_the_example_of_the_documentation_runs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "dpsgd-engine.md").read_text(encoding="utf-8")
    example = next(code for code in re.findall(r"```python\n(.*?)```", text, re.S) if "PrivacyEngine" in code)
    space: dict[str, object] = {}
    exec(example, space)  # noqa: S102
    assert 0 < space["engine"].get_epsilon(1e-3) <= 3.0  # type: ignore[attr-defined]


def test_integers_are_uniform() -> None:
    from scipy import stats

    from privacy.errors import NoiseError
    from privacy.noise import PrivateRandom

    drawn = PrivateRandom().integers(200_000, 7)
    assert stats.chisquare(np.bincount(drawn, minlength=7)).pvalue > 1e-6
    assert len(np.bincount(drawn)) == 7
    with pytest.raises(NoiseError):
        PrivateRandom().integers(3, 0)
