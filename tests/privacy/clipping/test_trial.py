"""What trying a step on made-up records sees, and that it takes what is right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from privacy.dpsgd import PrivateStep
from privacy.errors import StepError, UnsupportedModel

N = 12
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 0, 1, 0, 2, 1, 0, 0, 1])
Losses = Callable[[nn.Module, torch.Tensor], torch.Tensor]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def try_on(
    losses: Losses,
    units: torch.Tensor | None = None,
    engine: str = "bookkeeping",
    model: nn.Module | None = None,
) -> PrivateStep:
    model = network() if model is None else model
    step = PrivateStep(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        expected_units=4.0,
        engine=engine,  # type: ignore[arg-type]
    )
    step.try_on(lambda rows: losses(model, rows), torch.arange(N) if units is None else units)
    return step


def plain(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(X[rows]), Y[rows], reduction="none")


def mixup(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    other = rows[torch.randperm(len(rows))]
    return F.cross_entropy(model(0.7 * X[rows] + 0.3 * X[other]), Y[rows], reduction="none")


def standardised(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    x = X[rows]
    return F.cross_entropy(model((x - x.mean(0)) / (x.std(0, False) + 1e-3)), Y[rows], reduction="none")


def adjusted(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    counts = torch.bincount(Y[rows], minlength=3) + 1
    return F.cross_entropy(model(X[rows]) + counts.log(), Y[rows], reduction="none")


def reweighted(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    return plain(model, rows) / torch.bincount(Y[rows])[Y[rows]]


def two_see_each_other(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    x = X[rows].clone()
    at, other = rows == 3, rows == 7
    if at.any() and other.any():
        x[at], x[other] = x[other].clone(), x[at].clone()
    return F.cross_entropy(model(x), Y[rows], reduction="none")


def by_size(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    return plain(model, rows) * len(rows)


class Later:
    """Records mix from the sixteenth batch on."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return mixup(model, rows) if self.calls > 15 else plain(model, rows)


def gradient_only(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """No loss moves: the mean of the batch is taken away again, but not its gradient."""
    out = model(X[rows])
    mean = out.mean(0)
    return F.cross_entropy(out + mean - mean.detach(), Y[rows], reduction="none")


def less_mean(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    found = plain(model, rows)
    return found - found.mean() / 2


FAULTS: dict[str, Losses] = {
    "mixup outside the model": mixup,
    "inputs standardised over the batch": standardised,
    "logits adjusted by the batch's labels": adjusted,
    "weights by the batch's labels": reweighted,
    "two records that see each other": two_see_each_other,
    "a loss that depends on the size": by_size,
    "mixing that begins later": Later(),
    "gradients that mix where losses do not": gradient_only,
    "a mean over the batch": less_mean,
}


@pytest.mark.parametrize("engine", ["bookkeeping", "hooks", "ghost"])
@pytest.mark.parametrize("name", FAULTS)
def test_what_mixes_records_is_refused(name: str, engine: str) -> None:
    with pytest.raises(UnsupportedModel, match="record"):
        try_on(FAULTS[name], engine=engine)


@pytest.mark.parametrize("engine", ["bookkeeping", "hooks", "ghost"])
def test_ordinary_losses_pass_and_random_states_stay(engine: str) -> None:
    before = torch.get_rng_state()
    model = network()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    try_on(plain, engine=engine, model=model)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_patients_of_several_records_pass() -> None:
    try_on(plain, torch.tensor([5, 5, 1, 1, 1, 2, 3, 4, 4, 0, 0, 0]))


def test_what_mixes_a_patients_own_records_passes() -> None:
    units = torch.arange(N) // 3

    def losses(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        same = (units[rows][:, None] == units[rows]).float()
        return F.cross_entropy(model(same @ X[rows] / same.sum(1, keepdim=True)), Y[rows], reduction="none")

    try_on(losses, units)
    with pytest.raises(UnsupportedModel):
        try_on(losses)


def test_an_engine_that_does_not_take_the_units_is_refused() -> None:
    with pytest.raises(StepError, match="several"):
        try_on(plain, torch.arange(N) // 2, "ghost")


def test_too_few_made_up_units_are_refused() -> None:
    with pytest.raises(StepError, match="at least 2"):
        try_on(plain, torch.zeros(N, dtype=torch.int64))


@pytest.mark.parametrize("scale", [0.0, 1e-30, 60.0, 1e6, 1e30])
@pytest.mark.parametrize("engine", ["bookkeeping", "hooks"])
def test_after_it_no_record_makes_a_step_raise(engine: str, scale: float) -> None:
    """Also with parameters that saturate, vanish or overflow: the same code runs, and noise is added."""
    model = network()
    with torch.no_grad():
        model[3].weight.mul_(scale)
    step = try_on(plain, engine=engine, model=model)
    x = X.clone()
    x[0], x[1], x[2], x[3] = float("nan"), float("inf"), 3e38, 1e-45
    weights = torch.ones(N)
    weights[4], weights[5] = float("nan"), 1e-45
    step(lambda: weights * F.cross_entropy(model(x), Y, reduction="none"), torch.arange(N))
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_a_use_that_only_some_records_bring_is_left_out() -> None:
    """A refusal would tell that such a record is there; the bound holds without it."""
    model = nn.Linear(6, 3)

    def losses(_: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        out = model(x)
        if bool((x[:, 0] > 100).any()):
            out = out + torch.einsum("ri,oi->ro", x, model.weight)
        return F.cross_entropy(out, y, reduction="none")

    for engine in ("bookkeeping", "hooks"):
        step = try_on(lambda m, rows: losses(m, X[rows], Y[rows]), engine=engine, model=model)
        x = X.clone()
        x[0, 0] = 200.0
        step(lambda x=x: losses(model, x, Y), torch.arange(N))  # type: ignore[misc]
