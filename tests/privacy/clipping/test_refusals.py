"""What cannot be clipped exactly stops before anything moves, and says what and where."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from opacus.utils.per_sample_gradients_utils import compute_microbatch_grad_sample
from torch import nn

from privacy.clipping.bookkeeping import BookkeepingEngine
from privacy.clipping.choose import choose
from privacy.clipping.engine import EngineName
from privacy.clipping.units import Units
from privacy.clipping.use import Cost, squared_norms
from privacy.dpsgd import PrivateStep
from privacy.errors import StepError, UnsupportedModel, UntrackedParameter
from privacy.noise import PrivateRandom

R = 6
X = torch.randn(R, 3, 4, generator=torch.Generator().manual_seed(0))


def take_step(
    model: nn.Module,
    losses: Callable[[], torch.Tensor],
    units: torch.Tensor | None = None,
    engine: EngineName = "bookkeeping",
) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    PrivateStep(model, optimizer, noise_multiplier=1.0, max_grad_norm=1.0, expected_units=4.0, engine=engine)(
        losses, torch.arange(R) if units is None else units
    )


class OneOperator(nn.Module):
    """A parameter in one operator that has no rule."""

    def __init__(self, operator: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.operator = nn.Linear(4, 4), operator
        self.inner = nn.ParameterDict({"odd": nn.Parameter(torch.ones(4, 4))})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.operator(self.first(x), self.inner["odd"])


UNTRACKED: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "einsum": lambda x, p: torch.einsum("rti,ij->rtj", x, p),
    "einsum of a derived weight": lambda x, p: torch.einsum("rti,ij->rtj", x, p.tanh()),
    "a weight that is also used as it should be": lambda x, p: F.linear(x, p) + torch.inner(x, p),
    "an autocast cast": lambda x, p: F.linear(x, p.to(torch.bfloat16).float()),
    "an index for each record": lambda x, p: x[:, 0] + p[torch.arange(len(x)) % 4] + p[0],
}


@pytest.mark.parametrize("name", UNTRACKED)
def test_an_operator_without_a_rule_is_refused_by_the_parameters_name(name: str) -> None:
    torch.manual_seed(0)
    model = OneOperator(UNTRACKED[name])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UntrackedParameter, match=r"inner\.odd"):
        take_step(model, lambda: model(X).square().flatten(1).sum(1))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(("layer", "mend"), [(nn.LSTM, "DPLSTM"), (nn.GRU, "DPGRU"), (nn.RNN, "DPRNN")])
@pytest.mark.parametrize("engine", ["hooks", "ghost"])
def test_torchs_recurrent_layers_are_refused_by_opacus_engines_with_their_mend(
    layer: type[nn.Module], mend: str, engine: EngineName
) -> None:
    model = nn.ModuleDict({"notes": layer(4, 3, batch_first=True), "head": nn.Linear(3, 2)})

    def losses() -> torch.Tensor:
        return model["head"](model["notes"](X)[0]).square().sum((1, 2))

    with pytest.raises(UnsupportedModel, match=rf"notes .*opacus\.layers\.{mend}"):
        take_step(model, losses, engine=engine)


class Notes(nn.Module):
    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.notes, self.packed = nn.GRU(4, 3, batch_first=True), packed
        self.first = nn.Parameter(torch.zeros(1, 1, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.packed:
            x = nn.utils.rnn.pack_padded_sequence(x, torch.full((len(x),), x.shape[1]), batch_first=True)
        first = self.first.expand(1, x.batch_sizes[0] if self.packed else len(x), 3).contiguous()
        last: torch.Tensor = self.notes(x, first.detach() if self.packed else first)[1][0]
        return last


@pytest.mark.parametrize(
    ("packed", "words"),
    [(True, r"notes\.weight_ih_l0: a packed sequence .* padded"), (False, r"first: .* take part")],
)
def test_what_a_recurrent_layer_may_not_be_given(packed: bool, words: str) -> None:
    model = Notes(packed)
    with pytest.raises(UntrackedParameter, match=words):
        take_step(model, lambda: model(X).square().sum(1))


def test_a_frozen_recurrent_layer_is_taken() -> None:
    model = nn.Sequential(
        nn.LSTM(4, 3, batch_first=True).requires_grad_(False), nn.Flatten(), nn.Linear(9, 2)
    )
    model.forward = lambda x: model[2](model[1](model[0](x)[0]))  # type: ignore[method-assign]
    take_step(model, lambda: model(X).square().sum(1))


def test_a_functional_cast_under_autocast_does_not_hide() -> None:
    """Autocast keeps one cast copy of a weight; a tracked use must not hand an untracked one a dead copy."""
    model = nn.Linear(4, 4)

    def losses() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model(X)
            return torch.einsum("rti,ji->rtj", hidden, model.weight).float().square().sum((1, 2))

    with pytest.raises(UntrackedParameter, match="weight"):
        take_step(model, losses)


class SequenceFirst(nn.Module):
    def __init__(self, length: int) -> None:
        super().__init__()
        self.layer, self.length = nn.Linear(4, 2), length

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x[:, :1].expand(-1, self.length, -1).transpose(0, 1)  # [T, R, 4]
        return self.layer(tokens * torch.arange(1.0, 1 + self.length)[:, None, None]).transpose(0, 1)


@pytest.mark.parametrize("length", [3, R, 2 * R])
def test_sequence_first_tensors_are_refused(length: int) -> None:
    """Also where the sequence has as many positions as the batch has records, or a multiple."""
    model = SequenceFirst(length)
    with pytest.raises(UnsupportedModel, match="first dimension"):
        take_step(model, lambda: model(X).square().sum((1, 2)))


class Reordered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flip(0)).flip(0)


def test_reordered_records_are_refused() -> None:
    model = Reordered()
    with pytest.raises(UnsupportedModel, match="other records"):
        take_step(model, lambda: model(X).square().sum((1, 2)))


class Wrapped(nn.Module):
    def __init__(self, mix: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer, self.mix = nn.Linear(4, 2), mix

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mix(self.layer(self.mix(x)))


MIXING: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "centring": lambda x: x - x.mean(0),
    "centring without gradient": lambda x: x - x.detach().mean(0),
    "attention over the batch": lambda x: F.scaled_dot_product_attention(*[x.transpose(0, 1)] * 3).transpose(
        0, 1
    ),
    "batch norm by hand": lambda x: F.batch_norm(x, None, None, training=True),
    "rolling": lambda x: x.roll(1, 0),
}


@pytest.mark.parametrize("engine", ["bookkeeping", "hooks"])
@pytest.mark.parametrize("name", MIXING)
def test_operations_across_records_are_refused(name: str, engine: EngineName) -> None:
    torch.manual_seed(0)
    model = Wrapped(MIXING[name]).train()
    with pytest.raises(UnsupportedModel, match="record"):
        take_step(model, lambda: model(X).square().sum((1, 2)), engine=engine)


class Masked(nn.Module):
    """Variational dropout: one mask for all positions, of each record or of all of them."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.layer, self.shared = nn.Linear(4, 2), shared

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x * F.dropout(torch.ones(1 if self.shared else len(x), 1, 4), 0.5, self.training))


def test_dropout_shared_over_the_batch_is_refused() -> None:
    model = Masked(shared=True)
    with pytest.raises(UnsupportedModel, match="one mask for the batch"):
        take_step(model.train(), lambda: model(X).square().sum((1, 2)))
    take_step(model.eval(), lambda: model(X).square().sum((1, 2)))
    own = Masked(shared=False).train()
    take_step(own, lambda: own(X).square().sum((1, 2)))


class StochasticDepth(nn.Module):
    """As torchvision's: it has no rule of its own, and is known by its name and mode."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (torch.rand(len(x) if self.mode == "row" else 1, 1, 1) < 0.5)


def test_layers_dropped_for_the_whole_batch_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(4, 4), StochasticDepth("batch"), nn.Linear(4, 2)).train()
    with pytest.raises(UnsupportedModel, match=r"^1 \(StochasticDepth\).*mode='row'"):
        take_step(model, lambda: model(X).square().sum((1, 2)))
    rows = nn.Sequential(nn.Linear(4, 4), StochasticDepth("row"), nn.Linear(4, 2)).train()
    take_step(rows, lambda: rows(X).square().sum((1, 2)))


def test_a_step_is_one_forward_and_one_backward_pass() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    passes = {"forward": 0, "backward": 0}

    def forward(_module: nn.Module, _args: object, out: torch.Tensor) -> None:
        passes["forward"] += 1
        out.register_hook(lambda _gradient: passes.update(backward=passes["backward"] + 1))

    model[0].register_forward_hook(forward)
    BookkeepingEngine(model).clipped(
        lambda: model(X).square().sum((1, 2)), Units.of(torch.tensor([0, 0, 1, 2, 2, 2])), torch.ones_like
    )
    assert passes == {"forward": 1, "backward": 1}


def test_a_contrastive_loss_is_refused() -> None:
    model = nn.Linear(4, 4)

    def losses() -> torch.Tensor:
        features = F.normalize(model(X[:, 0]), dim=1)
        return F.cross_entropy(features @ features.detach().t(), torch.arange(R), reduction="none")

    with pytest.raises(UnsupportedModel, match="mixes the records"):
        take_step(model, losses)


def test_a_model_that_is_not_called_cannot_be_checked() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(UnsupportedModel, match="Call the model itself"):
        take_step(model, lambda: model[0](X).square().sum((1, 2)))


def test_a_step_leaves_the_public_random_state_and_accepts_dropout() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2)).train()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    take_step(model, lambda: model(X).square().sum((1, 2)))
    assert torch.equal(torch.rand(4), expected)


def test_a_new_trainable_parameter_needs_a_new_step() -> None:
    model = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 2))
    step = PrivateStep(
        model,
        torch.optim.SGD(model.parameters(), lr=1.0),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        expected_units=4.0,
        engine="bookkeeping",
    )
    model[0].requires_grad_(True)
    with pytest.raises(StepError, match="new PrivateStep"):
        step(lambda: model(X).square().sum((1, 2)), torch.arange(R))


@pytest.mark.parametrize("option", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}])
def test_embedding_options_that_mix_records_are_refused(option: dict[str, object]) -> None:
    model = nn.Embedding(5, 3, **option)  # type: ignore[arg-type]
    with pytest.raises(UntrackedParameter, match="weight"):
        take_step(model, lambda: model(torch.arange(R) % 5).square().sum(1))


def test_positions_stay_shared_when_there_are_as_many_as_records() -> None:
    """(T,) ids are one vector for all records, also in a batch of exactly T records."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"layer": nn.Linear(4, 3), "places": nn.Embedding(3, 3)}).double()
    engine = BookkeepingEngine(model)

    def norms(x: torch.Tensor) -> torch.Tensor:
        def losses() -> torch.Tensor:
            return (model["layer"](x) * model["places"](torch.arange(3))).square().sum((1, 2))

        return engine.clipped(losses, Units.of(torch.arange(len(x))), torch.ones_like).norms

    assert torch.allclose(norms(X.double())[:3], norms(X[:3].double()), rtol=1e-12)


def test_nothing_is_booked_below_the_lowest_trainable_layer() -> None:
    """A frozen part costs no backward pass: its output carries no gradient."""
    frozen, head = nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 2)
    model = nn.Sequential(frozen, head)
    seen: list[bool] = []
    frozen.register_forward_hook(lambda _m, _a, out: seen.append(out.requires_grad))
    take_step(model, lambda: model(X).square().sum((1, 2)))
    assert seen
    assert not any(seen)


@pytest.mark.parametrize(
    ("cost", "room", "way"),
    [
        (Cost(gradient=1e9, keep=1e8, ghost=1e3), 1000, "ghost"),  # few positions, a large layer
        (Cost(gradient=1e9, keep=1e6, ghost=1e12), 600, "keep"),  # many positions, a small layer
        (Cost(gradient=1e9, keep=1e6, ghost=1e12), 599, "recompute"),  # no memory left
        (Cost(gradient=1e9, keep=1e6), 0, "recompute"),  # no ghost norm
    ],
)
def test_the_way_to_a_norm_follows_the_shapes_and_the_memory(cost: Cost, room: int, way: str) -> None:
    assert choose(cost, kept=1000, held=400, room=room) == way


def test_what_takes_no_more_memory_kept_than_booked_is_kept() -> None:
    assert choose(Cost(gradient=1e9, keep=1e6, ghost=1e12), kept=1000, held=1000, room=0) == "keep"


def test_the_memory_share_does_not_change_the_result() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(16, 4)).double()
    results = [
        BookkeepingEngine(model, share).clipped(
            lambda: model(X.double()).square().sum(1), Units.of(torch.arange(R) // 2), torch.ones_like
        )
        for share in (0.0, 100.0)
    ]
    assert torch.allclose(results[0].norms, results[1].norms, rtol=1e-12)
    for name, value in results[0].sums.items():
        assert torch.allclose(value, results[1].sums[name], rtol=1e-10), name


def test_long_norms_are_not_biased_in_single_precision() -> None:
    rows = torch.from_numpy(PrivateRandom().normal(3_000_000)).float()[None]
    assert float(squared_norms(rows)) == pytest.approx(float(rows.double().square().sum()), rel=2e-6)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Linear(4, 3), X),
        (nn.Conv1d(3, 2, 2), X),
        (nn.LayerNorm(4), X),
        (nn.GroupNorm(3, 3), X),
        (nn.InstanceNorm1d(3, affine=True), X),
        (nn.RMSNorm(4), X),
        (nn.Embedding(5, 3), torch.randint(0, 5, (R, 4), generator=torch.Generator().manual_seed(1))),
    ],
)
def test_opacus_per_sample_oracle_agrees(layer: nn.Module, x: torch.Tensor) -> None:
    """Opacus' own harness: the gradient of each record's L1 loss, as a batch of one."""
    expected = compute_microbatch_grad_sample(x, layer, loss_reduction="sum")
    squares = torch.stack([rows.flatten(1).square().sum(1) for rows in expected.values()]).sum(0)
    factors = torch.arange(1.0, R + 1)
    found = BookkeepingEngine(layer).clipped(
        lambda: layer(x).abs().flatten(1).sum(1), Units.of(torch.arange(R)), lambda _: factors
    )
    assert torch.allclose(found.norms.float(), squares.sqrt(), rtol=1e-5)
    for name, rows in expected.items():
        total = torch.einsum("r,r...->...", factors, rows)
        assert torch.allclose(
            found.sums[name.removeprefix("wrapped_module.")], total, rtol=1e-4, atol=1e-4
        ), name
