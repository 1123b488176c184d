"""Tensors computed from parameters alone, in every way to a norm, against the definition."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from privacy.clipping.bookkeeping import BookkeepingEngine
from privacy.clipping.units import Units
from privacy.dpsgd import PrivateStep
from privacy.errors import UnsupportedModel, UntrackedParameter
from tests.oracles.clipping import clipped_sum
from tests.privacy.clipping.agreement import check

R = 5
UNITS = {"records": [0, 1, 2, 3, 4], "patients": [7, 7, 3, 3, 3], "scattered": [1, 0, 1, 2, 0]}
X = torch.randn(R, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

Operator = Callable[[torch.Tensor, nn.Parameter], torch.Tensor]


class OneOperator(nn.Module):
    """A [4, 4] parameter in an operator between two layers."""

    def __init__(self, operator: Operator) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.operator = nn.Linear(4, 4), nn.Linear(4, 2), operator
        self.odd = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.operator(self.first(x), self.odd))


def distances(p: torch.Tensor) -> torch.Tensor:
    """A bias [1, 3, 3] of each pair of three positions, as in T5 and Swin."""
    steps = torch.arange(3)
    far = (steps[None, :] - steps[:, None]).abs()
    far += torch.zeros_like(far)
    return F.embedding(far, p).permute(2, 0, 1)[:1]


def attended(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return (x @ x.transpose(1, 2) + distances(p)).softmax(-1) @ x


def fused(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    q = x.unflatten(2, (2, 2)).transpose(1, 2)  # two heads
    bias = F.embedding(torch.arange(9).view(3, 3) % 4, p)[..., :2].permute(2, 0, 1)
    return F.scaled_dot_product_attention(q, q, q, attn_mask=bias).transpose(1, 2).flatten(2)


def windows(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Two windows a record, as many rows together."""
    rows = torch.cat([x, x.sin()], 1).view(2 * len(x), 3, 4)
    return (rows + p[:3].unsqueeze(0)).view(len(x), 6, 4)


def convolved(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    weight = torch._weight_norm(p.view(4, 4, 1), p.norm(dim=1).view(4, 1, 1) + 1, 0)
    return F.conv1d(x.transpose(1, 2), weight, p[0]).transpose(1, 2)


def in_place(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    weight = p.clone()
    weight = F.relu(weight.mul_(2), inplace=True)
    return F.linear(x, weight)


def shifted(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Words moved on by one, as a decoder has them: the constant is overwritten, and the words are none."""
    words = (x.detach() > 0).sum(-1).clamp(max=3)
    moved = words.new_zeros(words.shape)
    moved[:, 1:] = words[:, :-1]
    moved[:, 0] = 3
    return x + F.embedding(moved, p) * F.embedding(words, p)


def through_a_layer(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    coordinates = torch.linspace(-1, 1, 12).to(p.dtype).view(1, 3, 4)
    return x + F.layer_norm(F.linear(coordinates, p, p[0]).tanh(), (4,), 1 + p[1], p[2])


DERIVED: dict[str, Operator] = {
    "a transposed weight": lambda x, p: x @ p.t(),
    "a derived weight": lambda x, p: F.linear(x, p.tanh(), p[0]),
    "a weight that is also used as it is": lambda x, p: F.linear(x, p) + F.linear(x, p * 2),
    "one derived weight twice": lambda x, p: (lambda w: F.linear(F.linear(x, w).tanh(), w))(p.sin()),
    "two weights of one": lambda x, p: torch.cat([F.linear(x, half) for half in p.chunk(2)], -1),
    "a weight of parts": lambda x, p: F.linear(x, torch.cat([p[:2], p[2:] * 2])),
    "a penalty on the weight": lambda x, p: x + p.square().sum(),
    "an index": lambda x, p: x + p[0],
    "a parameter twice": lambda x, p: p[:3] + p[1:] + x,
    "a scale about one": lambda x, p: x * (1 + p[0]),
    "a bounded temperature": lambda x, p: x * p.mean().clamp(max=0.3).exp(),
    "a product from the left": lambda x, p: p[:3, :3].tanh() @ x,
    "a batched product": lambda x, p: (x[:, None] @ p.view(1, 2, 4, 2).tanh()).transpose(1, 2).flatten(2),
    "distances": attended,
    "distances in fused attention": fused,
    "windows": windows,
    "a normalised weight": convolved,
    "a change in place": in_place,
    "a layer on constants": through_a_layer,
    "copies": lambda x, p: torch.cat([(p[:1] * 2).expand(len(x), 1, -1), x], 1),
    "repeated rows": lambda x, p: torch.bmm(x, p.sin().unsqueeze(0).repeat(len(x), 1, 1)),
    "repeated heads": lambda x, p: torch.bmm(
        x.repeat_interleave(2, 0)[..., :2], p.view(2, 2, 4).repeat(len(x), 1, 1)
    ).view(len(x), 6, 4),
    "a choice": lambda x, p: torch.where(x > 0, p[0] * 2, x),
    "a mask over it": lambda x, p: (p[:3] * 2).expand(1, 3, 4).masked_fill(x > 0, 0.5) + x,
    "words with constants of their size": shifted,
    "a first hidden state": lambda x, p: x + F.linear(torch.ones(len(x), 4, dtype=x.dtype), p)[:, None],
}


@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
@pytest.mark.parametrize("way", [None, "keep", "recompute"])
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", DERIVED)
def test_what_is_derived_from_parameters(name: str, unit: str, way: str | None, kind: torch.dtype) -> None:
    check(OneOperator(DERIVED[name]), (X,), torch.tensor(UNITS[unit]), way=way, dtype=kind)


@pytest.mark.parametrize("clipping", ["automatic", "per-group"])
@pytest.mark.parametrize(
    "name", ["distances", "a weight that is also used as it is", "one derived weight twice"]
)
def test_clipped_otherwise(name: str, clipping: str) -> None:
    check(OneOperator(DERIVED[name]), (X,), torch.tensor(UNITS["patients"]), clipping=clipping)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize(
    "name", ["distances", "a derived weight", "a layer on constants", "a change in place"]
)
def test_in_a_checkpointed_block(name: str, reentrant: bool) -> None:
    operator = DERIVED[name]
    check(
        OneOperator(lambda x, p: checkpoint(lambda rows: operator(rows, p), x, use_reentrant=reentrant)),
        (X,),
        torch.tensor(UNITS["patients"]),
    )


def exact(model: OneOperator, engine: BookkeepingEngine, x: torch.Tensor) -> bool:
    """Whether one engine's norms and sums of a batch are those of the definition."""

    def losses(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        return model(rows).square().flatten(1).mean(1)

    units = torch.arange(len(x))
    expected = clipped_sum(model, lambda copy, r: losses(copy, x[r : r + 1]).sum(), units, 1.0)
    found = engine.clipped(
        lambda: losses(model, x), Units.of(units), lambda norms: (1.0 / norms).clamp(max=1.0)
    )
    close = torch.allclose(found.norms, expected.norms, rtol=1e-9, atol=0)
    return close and all(torch.allclose(found.sums[n], s, atol=1e-11) for n, s in expected.sums.items())


BY_CHANCE: dict[str, Operator] = {
    "distances": attended,
    "a table of heads": lambda x, p: x + p[:1].expand(4, 4).sin().mean(0),
    "repeated for heads": lambda x, p: x + p[:1].repeat(4, 1).sin().mean(0),
    "constants with a row for each head": lambda x, p: (
        x + F.linear(torch.ones(4, 4, dtype=x.dtype), p).mean(0)
    ),
    "a table of fixed ids": lambda x, p: x + F.embedding(torch.zeros(4, 4, dtype=torch.long), p).mean((0, 1)),
}


@pytest.mark.parametrize("name", BY_CHANCE)
def test_batches_whose_size_agrees_with_another_by_chance(name: str) -> None:
    """Three positions, four heads: batches of three or four records, after a first one that showed what is what."""
    model = OneOperator(BY_CHANCE[name]).double()
    engine = BookkeepingEngine(model)
    x = torch.randn(8, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for records in (5, 4, 3, 1, 8, 4, 2, 3):
        assert exact(model, engine, x[:records]), records


@pytest.mark.parametrize("name", [name for name in BY_CHANCE if name != "distances"])
def test_a_first_batch_that_agrees_by_chance_is_refused_and_misleads_no_later_one(name: str) -> None:
    model = OneOperator(BY_CHANCE[name]).double()
    step = PrivateStep(
        model, torch.optim.SGD(model.parameters(), lr=0.0), noise_multiplier=1.0, max_grad_norm=1.0, expected_units=4.0
    )  # fmt: skip
    x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def take(records: int) -> None:
        step(lambda: model(x[:records]).square().mean((1, 2)), torch.arange(records))

    with pytest.raises(UnsupportedModel):
        take(4)
    take(5)
    take(4)
    engine = BookkeepingEngine(model)
    engine.clipped(lambda: model(x[:4]).square().mean((1, 2)), Units.of(torch.arange(4)), torch.ones_like)
    assert all(exact(model, engine, x[:records]) for records in (5, 4))


def changed_after_use(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    weight = p * 2
    out = F.linear(x, weight)
    return out + weight.mul_(3)[0]


def dropped(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """A mask of five rows, as many as there are records, and yet of none of them."""
    return x + F.dropout(torch.cat([p, p[:1]]), 0.5).mean(0)


def of_records(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return F.linear(x, torch.outer(x[0, 0], p[0]), p[1])


def kept_from_before(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Constants of a row for each record, for all that can be known."""
    return x + F.linear(_KEPT.to(x.dtype), p).mean(0)


_KEPT = torch.arange(16.0).view(4, 4)

REFUSED: dict[str, Operator] = {
    "an operator without a rule": lambda x, p: torch.einsum("rti,ij->rtj", x, p.tanh()),
    "a row for each record": lambda x, p: x[:, 0] + p[torch.arange(len(x)) % 4] * 2,
    "a change in place after its use": changed_after_use,
    "a change in place by records": lambda x, p: (p[:1] * 2).expand(3, 4).clone().mul_(x[0]) + x,
    "a weight made of records": of_records,
    "one mask of dropout": dropped,
    "less than float32": lambda x, p: F.linear(x, p.to(torch.bfloat16).to(x.dtype)),
    "a layer on what is not known": kept_from_before,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_by_the_parameters_name_without_the_probe(name: str) -> None:
    model = OneOperator(REFUSED[name]).double()
    with pytest.raises(UntrackedParameter, match=r"^(odd|last\.weight|last\.bias|first\.weight): "):
        BookkeepingEngine(model).clipped(
            lambda: model(X).square().flatten(1).mean(1), Units.of(torch.arange(R)), torch.ones_like
        )
    assert all(p.grad is None for p in model.parameters())


class WithConstants(OneOperator):
    """A layer on a buffer and on a frozen parameter, of as many rows as there are records."""

    def __init__(self) -> None:
        super().__init__(lambda x, p: x)
        self.register_buffer("grid", torch.randn(R, 4))
        self.frozen = nn.Parameter(torch.randn(R, 4), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = F.linear(self.grid, self.odd) * F.linear(self.frozen.view(-1, 4), self.odd.sin())
        return self.last(self.first(x) + bias.mean(0))


def test_buffers_and_frozen_parameters_are_constants() -> None:
    check(WithConstants(), (X,), torch.tensor(UNITS["patients"]))


@pytest.mark.parametrize(
    "mask",
    [
        lambda ones: F.dropout(ones, 0.5),
        lambda ones: ones.bernoulli_(0.5),
        lambda ones: torch.rand_like(ones),
    ],
)
def test_a_random_mask_of_each_record_is_no_constant(mask: Callable[[torch.Tensor], torch.Tensor]) -> None:
    model = OneOperator(lambda x, p: x * (p[0] * mask(torch.ones(len(x), 1, 4, dtype=x.dtype)))).double()
    step = PrivateStep(
        model, torch.optim.SGD(model.parameters(), lr=0.0), noise_multiplier=1.0, max_grad_norm=1.0, expected_units=4.0
    )  # fmt: skip
    step(lambda: model(X).square().mean((1, 2)), torch.arange(R))


def test_nothing_of_a_pass_outlives_it() -> None:
    seen: list[weakref.ref[torch.Tensor]] = []

    def operator(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        weight = p.tanh()
        seen.append(weakref.ref(weight))
        return F.linear(x, weight)

    model = OneOperator(operator).double()
    engine = BookkeepingEngine(model)
    gc.disable()
    try:
        assert exact(model, engine, X)
        assert seen[-1]() is None
    finally:
        gc.enable()


NUMBERS: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "exp": lambda m, y: y * m.scale.exp(),
    "exp first": lambda m, y: m.scale.exp() * y,
    "clamped": lambda m, y: y * torch.clamp(m.scale.exp(), max=100.0),
    "softplus": lambda m, y: y + F.softplus(m.scale),
    "over": lambda m, y: y / m.scale.exp(),
    "times a buffer": lambda m, y: y * (m.fixed * m.scale),
    "times a vector": lambda m, y: y * (m.scale * m.vector),
    "twice": lambda m, y: y * m.scale + m.scale.exp(),
    "chosen": lambda m, y: torch.where(y > 0, y, m.scale.exp()),
    "stacked": lambda m, y: y * torch.stack([m.scale, m.scale.exp(), m.scale]),
    "slope": lambda m, y: F.prelu(y, m.scale.reshape(1)),
    "expanded": lambda m, y: y * m.scale.exp().expand(len(y), 3),
}


class WithNumber(nn.Module):
    """A parameter and a buffer without dimensions, as the temperature of a softmax is."""

    def __init__(self, use: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer, self.use = nn.Linear(4, 3), use
        self.scale, self.vector = (
            nn.Parameter(torch.tensor(0.3)),
            nn.Parameter(torch.tensor([0.5, -1.0, 2.0])),
        )
        self.register_buffer("fixed", torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.use(self, self.layer(x))


@pytest.mark.parametrize("way", [None, "keep", "recompute"])
@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_computed_from_a_single_number(name: str, way: str | None) -> None:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    check(WithNumber(NUMBERS[name]), (x,), torch.tensor([0, 0, 1, 2, 1]), way=way)
