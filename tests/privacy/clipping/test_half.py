"""Half-precision parameters: what is summed and what noise is added to stays in float32, so the bound holds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from privacy.clipping.bookkeeping import BookkeepingEngine
from privacy.clipping.engine import ClippingEngine
from privacy.clipping.opacus import GhostEngine, HooksEngine
from privacy.clipping.rules import clip_factors
from privacy.clipping.units import Units
from privacy.dpsgd import PrivateStep

R = 24
ENGINES = {"bookkeeping": BookkeepingEngine, "hooks": HooksEngine, "ghost": GhostEngine}


def network(kind: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4)).to(kind)


def sums(name: str, model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    engine: ClippingEngine = ENGINES[name](model)
    found = engine.clipped(
        lambda: model(x).float().square().sum(1),
        Units.of(torch.arange(len(x))),
        lambda norms: clip_factors(norms, 0.1, "flat"),
    )
    assert {value.dtype for value in found.sums.values()} == {torch.float32}
    return torch.cat([value.flatten() for value in found.sums.values()]).double()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("engine", ["bookkeeping", "hooks"])
def test_one_record_moves_the_sum_by_no_more_than_c(engine: str, kind: torch.dtype) -> None:
    """Rounded to the parameters' type, the sum of 24 records moves by several C."""
    model = network(kind)
    x = torch.randn(R, 16, generator=torch.Generator().manual_seed(1)).to(kind)
    whole = sums(engine, model, x)
    for left_out in range(0, R, 5):
        rest = torch.cat([x[:left_out], x[left_out + 1 :]])
        assert float((whole - sums(engine, model, rest)).norm()) <= 0.1 * (1 + 1e-3)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_of_parts_adds_noise_in_float32_and_moves_in_the_parameters_type(
    engine: str, kind: torch.dtype
) -> None:
    model = network(kind)
    x = torch.randn(R, 16, generator=torch.Generator().manual_seed(1)).to(kind)
    step = PrivateStep(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        noise_multiplier=1.0,
        max_grad_norm=0.1,
        expected_units=4.0,
        engine=engine,  # type: ignore[arg-type]
    )
    for part in (slice(0, 12), slice(12, 24)):
        step.accumulate(
            lambda part=part: model(x[part]).float().square().sum(1),  # type: ignore[misc]
            torch.arange(24)[part],
        )
        assert {p.summed_grad.dtype for p in model.parameters()} == {torch.float32}  # type: ignore[attr-defined]
    step.finish()
    assert {p.dtype for p in model.parameters()} == {kind}
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_many_units_are_added_in_float64() -> None:
    model, x = nn.Linear(8, 2), torch.randn(600, 8)
    step = PrivateStep(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        noise_multiplier=1.0,
        max_grad_norm=0.1,
        expected_units=600.0,
    )
    step.accumulate(lambda: model(x).square().sum(1), torch.arange(600))
    assert model.weight.summed_grad.dtype == torch.float64  # type: ignore[union-attr]
    step.finish()
    assert model.weight.dtype == torch.float32
