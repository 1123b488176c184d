"""Whatever parameters and records hold, a unit adds at most C, nothing raises, and no other unit notices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from privacy.clipping import per_record
from privacy.clipping.bookkeeping import BookkeepingEngine
from privacy.clipping.engine import Clipped, ClippingEngine
from privacy.clipping.opacus import GhostEngine, HooksEngine
from privacy.clipping.rules import clip_factors
from privacy.clipping.units import Units
from tests.privacy.clipping.agreement import forced

R, T, D = 4, 6, 4
EXTREMES = [0.0, 1e-45, 1e-38, 1e-30, 1e-23, 1e-10, 1.0, 60.0, 1e10, 1e18, 1e25, 1e38]
WAYS = [None, "keep", "ghost", "recompute"]
ENGINES: dict[str, Callable[[nn.Module], ClippingEngine]] = {
    "bookkeeping": BookkeepingEngine,
    "hooks": HooksEngine,
    "ghost": GhostEngine,
}


class Tied(nn.Module):
    """A table that is looked up and projects back: two kinds of use of one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ids = torch.nan_to_num(x[:, :, 0], 0.0, 0.0, 0.0).abs().clamp(max=4).long()
        return F.linear(self.table(ids), self.table.weight[:D])


class Derived(nn.Module):
    """A weight that is computed from parameters, with a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.temperature = nn.Parameter(torch.ones(D, D)), nn.Parameter(torch.tensor(0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight / (1e-3 + self.weight.norm())) * self.temperature.exp()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(D, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(x, x.flip(1), x, need_weights=False)[0]
        return out


class Raw(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.scale = nn.Parameter(torch.ones(1, D)), nn.Parameter(torch.ones(D))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x * self.scale, per_record(self.token, len(x))], 1)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(D, D),
    "deep": lambda: nn.Sequential(nn.Linear(D, 8), nn.ReLU(), nn.Linear(8, D)),
    "convolution": lambda: nn.Conv1d(T, D, 3, padding=1),
    "wide convolution": lambda: nn.Sequential(nn.Unflatten(2, (2, 2)), nn.Conv2d(T, 3, 2, padding=1)),
    "grouped convolution": lambda: nn.Conv1d(T, T, 3, groups=T),
    "transposed convolution": lambda: nn.ConvTranspose1d(T, 2, 3, stride=2),
    "layer norm": lambda: nn.LayerNorm(D),
    "group norm": lambda: nn.GroupNorm(2, T),
    "fixed norm": lambda: nn.BatchNorm1d(T).eval(),
    "rms norm": lambda: nn.RMSNorm(D),
    "prelu": lambda: nn.PReLU(T),
    "attention": Attention,
    "tied": Tied,
    "derived": Derived,
    "raw": Raw,
}
OPACUS = ["linear", "deep", "convolution", "layer norm", "group norm"]
GHOST = [
    "linear",
    "deep",
]  # elsewhere it sums by another route than it takes norms, and holds no reserve for it


def engines(name: str) -> list[str]:
    return ["bookkeeping", *["hooks"] * (name in OPACUS), *["ghost"] * (name in GHOST)]


def clipped(
    engine: str,
    model: nn.Module,
    x: torch.Tensor,
    units: torch.Tensor,
    bound: float,
    way: str | None,
    weights: torch.Tensor | None = None,
) -> Clipped:
    def losses() -> torch.Tensor:
        out = model(x).flatten(1)
        if weights is not None:
            return (out * weights[: len(x), : out.shape[1]]).sum(1)
        return F.cross_entropy(out, torch.zeros(len(x), dtype=torch.int64), reduction="none")

    made = ENGINES[engine](model)
    made.strict = False  # as after `PrivateStep.try_on`
    with forced(way):
        return made.clipped(losses, Units.of(units), lambda norms: clip_factors(norms, bound, "flat"))


def size(found: Clipped) -> float:
    return float(torch.stack([value.double().norm() for value in found.sums.values()]).norm())


@st.composite
def tensors(draw: st.DrawFn, *shape: int) -> torch.Tensor:
    """Random, constant, alternating, or equal along a dimension; of any size, or of several sizes."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    kind = draw(st.sampled_from(["random", "constant", "alternating", "rows", "mixed"]))
    if kind == "constant":
        values = torch.ones(shape)
    elif kind == "alternating":
        values = torch.ones(shape).flatten()
        values[::2] = -1.0
        values = values.view(shape)
    elif kind == "rows":
        values = values[..., :1, :].expand(shape).clone()
    values = values * draw(st.sampled_from(EXTREMES))
    if kind == "mixed":
        values.flatten()[:: draw(st.integers(2, 5))] *= draw(st.sampled_from(EXTREMES))
    return values


def filled(model: nn.Module, draw: st.DrawFn) -> nn.Module:
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.copy_(draw(tensors(1, parameter.numel())).view(parameter.shape))
    return model


@settings(max_examples=15, deadline=None)
@given(st.data(), st.sampled_from(WAYS), st.sampled_from([1.0, 1e-3, 1e-8, 1e6]))
@pytest.mark.parametrize("name", LAYERS)
def test_no_unit_adds_more_than_c(name: str, data: st.DataObject, way: str | None, bound: float) -> None:
    model = filled(LAYERS[name](), data.draw)
    x, weights = data.draw(tensors(R, T, D)), data.draw(tensors(R, 64))
    engine = data.draw(st.sampled_from(engines(name)))
    loss = data.draw(st.sampled_from([weights, None]))
    units = torch.arange(R) if engine == "ghost" else torch.zeros(R, dtype=torch.int64)
    rows = slice(0, 1) if engine == "ghost" else slice(None)
    alone = clipped(engine, model, x[rows], units[rows], bound, way, loss)
    assert size(alone) <= bound * (1 + 1e-4)
    together = clipped(engine, model, x, torch.arange(R), bound, way, loss)
    assert size(together) <= R * bound * (1 + 1e-4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("length", [8, 500])
def test_terms_that_cancel_do_not_hide_what_rounding_leaves(
    length: int, engine: str, way: str | None
) -> None:
    """Equal inputs, and gradients that sum to 0: the true norm is 0, and the rounded sum of 1e7 is not."""
    model = nn.Linear(D, 3)
    x = torch.full((1, length, D), 1e7) * torch.linspace(1.0, 2.0, D)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(1, length, 3, generator=generator)
    weights -= weights.mean(1, keepdim=True)
    found = clipped(engine, model, x, torch.zeros(1, dtype=torch.int64), 1e-3, way, weights.flatten(1))
    assert size(found) <= 1e-3 * (1 + 1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_tiny_gradients_of_large_inputs_are_clipped(way: str | None) -> None:
    """The square of 1e-24 is 0 in float32, its product with 1e18 is not."""
    model = nn.Linear(D, D)
    found = clipped(
        "bookkeeping",
        model,
        torch.full((1, 2, D), 1e18),
        torch.zeros(1, dtype=torch.int64),
        1e-8,
        way,
        torch.full((1, 2 * D), 1e-24),
    )
    assert size(found) == pytest.approx(1e-8, rel=1e-4)


def test_a_saturated_logit_has_its_own_gradient() -> None:
    """Beyond a margin of about 52 the square of the gradient is 0 in float32."""
    model = nn.Linear(1, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[60.0], [0.0]]))
    found = clipped("bookkeeping", model, torch.ones(1, 1), torch.zeros(1, dtype=torch.int64), 1.0, None)
    expected = torch.autograd.grad(
        F.cross_entropy(model(torch.ones(1, 1)), torch.zeros(1, dtype=torch.int64)), model.weight
    )[0]
    assert torch.equal(found.sums["weight"], expected)
    assert 0 < size(found) < 1e-23


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", LAYERS)
def test_what_is_not_finite_stays_with_its_unit(name: str, way: str | None, bad: float) -> None:
    for engine in engines(name) if way is None else ["bookkeeping"]:
        torch.manual_seed(0)
        model = LAYERS[name]()
        x = torch.randn(R, T, D)
        x[2] = bad
        with_it = clipped(engine, model, x, torch.arange(R), 0.1, way)
        if bad == 3e38 or engine == "ghost" or name == "tied":  # it may have a finite gradient
            assert size(with_it) <= R * 0.1 * (1 + 1e-4)
            continue
        keep = torch.tensor([0, 1, 3])
        without = clipped(engine, model, x[keep], keep, 0.1, way)
        for key, value in without.sums.items():
            assert torch.allclose(with_it.sums[key], value, rtol=1e-5, atol=1e-6), (engine, key)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_loss_that_is_not_finite_stays_with_its_unit(engine: str) -> None:
    for bad in (float("nan"), float("inf")):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(D, 8), nn.ReLU(), nn.Linear(8, 2))
        x, weights = torch.randn(R, D), torch.ones(R, 2)
        weights[1] = bad
        with_it = clipped(engine, model, x, torch.arange(R), 0.1, None, weights)
        keep = torch.tensor([0, 2, 3])
        without = clipped(engine, model, x[keep], keep, 0.1, None, weights[keep])
        for key, value in without.sums.items():
            assert torch.allclose(with_it.sums[key], value, rtol=1e-5, atol=1e-6), (engine, key)
