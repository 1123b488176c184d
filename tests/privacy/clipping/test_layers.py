"""Every layer family, in every way to a norm, for records and for patients, against the definition."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from opacus.layers import DPGRU, DPLSTM
from torch import nn

from privacy.clipping import conv, per_record
from privacy.clipping.book import Book
from privacy.clipping.operators import Tracking
from privacy.clipping.shared import Constants
from privacy.clipping.shared import Shared as SharedParts
from privacy.clipping.units import Units
from privacy.clipping.validate import trainable
from tests.privacy.clipping.agreement import check

R = 5
UNITS = {
    "records": [0, 1, 2, 3, 4],
    "patients": [7, 7, 3, 3, 3],
    "scattered": [1, 0, 1, 2, 0],
    "one patient": [0, 0, 0, 0, 0],
}
WAYS = [None, "keep", "ghost", "recompute"]
PRECISIONS = [torch.float32, torch.float64]

way = st.sampled_from(WAYS)
units = st.sampled_from(list(UNITS.values())).map(torch.tensor)
precision = st.sampled_from(PRECISIONS)
clipping = st.sampled_from(["flat", "automatic"])
proof = settings(max_examples=30, deadline=None, derandomize=True)
small = st.integers(1, 3)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def randomised(model: nn.Module) -> nn.Module:
    """Scales and shifts away from 1 and 0, where errors hide."""
    generator = torch.Generator().manual_seed(11)
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5 + 0.1)
    return model


@proof
@given(
    way,
    units,
    precision,
    clipping,
    st.integers(1, 6),
    small,
    small,
    st.booleans(),
    st.sampled_from([0, 1, 2]),
)
def test_linear(w, u, kind, clip, positions, inputs, outputs, bias, extra) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    model = randomised(nn.Linear(inputs, outputs, bias=bias))
    shape = (R, *[positions] * extra, inputs)
    check(model, (normal(*shape),), u, dtype=kind, way=w, clipping=clip)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    n, groups, transposed = draw(small), draw(st.integers(1, 2)), draw(st.booleans())
    size = 5 if n < 3 else 4
    inputs, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(n))
    stride, dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    assume(all(dilation * (k - 1) + 1 <= size for k in kernel))
    common = {"bias": draw(st.booleans()), "groups": groups, "dilation": dilation}
    if transposed:
        kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[n - 1]
        extra = draw(st.integers(0, max(stride, dilation) - 1))
        model = kind(
            inputs,
            outputs,
            kernel,
            stride=stride,
            padding=draw(st.integers(0, 1)),
            output_padding=extra,
            **common,
        )
        assume(
            all(
                (size - 1) * stride - 2 * model.padding[0] + dilation * (k - 1) + extra + 1 > 0
                for k in kernel
            )
        )
    else:
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[n - 1]  # type: ignore[assignment]
        padding = draw(st.sampled_from(["same", "valid", 0, 1])) if stride == 1 else draw(st.integers(0, 1))
        mode = draw(st.sampled_from(["zeros", "circular", "reflect", "replicate"]))
        assume(not (mode == "reflect" and n == 3 and padding == "same" and max(kernel) * dilation > size))
        model = kind(inputs, outputs, kernel, stride=stride, padding=padding, padding_mode=mode, **common)
    return randomised(model), (R, inputs, *[size] * n)


def tap_by_tap(always: bool) -> ExitStack:
    """Make convolutions go through their taps, which else only large weights on small maps do."""
    stack = ExitStack()
    if always:
        stack.enter_context(patch.multiple(conv, _BY_TAP=0, _SUM_BY_TAP=0, _LARGE=0))
    return stack


@settings(max_examples=100, deadline=None, derandomize=True)
@given(convolutions(), way, units, precision, st.booleans())
def test_convolution(layer, w, u, kind, by_tap) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    model, shape = layer
    with tap_by_tap(by_tap):
        check(model, (normal(*shape),), u, dtype=kind, way=w)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_large_weight_on_a_small_map(size: int, unit: str) -> None:
    """Tap by tap without being forced; on one pixel all taps but the middle one see nothing."""
    model = nn.Conv2d(96, 96, 3, padding=1)
    use = conv.Convolution(
        torch.zeros(R, 1, 96, size, size),
        torch.zeros(R, 1, 96, size, size),
        conv.Geometry(model.weight.shape, [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
    )
    assert use._by_tap
    assert len(use._taps) == (1 if size == 1 else 9)
    for one_way, kind in itertools.product(WAYS, PRECISIONS):
        check(
            randomised(model),
            (normal(R, 96, size, size),),
            torch.tensor(UNITS[unit]),
            way=one_way,
            dtype=kind,
        )


@pytest.mark.parametrize("by_tap", [False, True])
def test_one_weight_in_two_convolutions_and_another_operator(by_tap: bool) -> None:
    """Their rows may lie in different orders."""

    class Thrice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2, 3, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            small = F.avg_pool2d(x, 4)
            a, b = F.conv2d(x, self.weight, padding=1), F.conv2d(small, self.weight, padding=2, dilation=2)
            scale = per_record(self.weight, len(x)).flatten(1).mean(1)
            return torch.cat([a.flatten(1), b.flatten(1)], 1) * scale[:, None]

    for one_way, unit in itertools.product(WAYS, UNITS.values()):
        with tap_by_tap(by_tap):
            check(randomised(Thrice()), (normal(R, 2, 6, 6),), torch.tensor(unit), way=one_way)


@pytest.mark.parametrize("kernel", [(2, 3), (3, 3), (4, 1)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_convolutions_that_keep_the_size(kernel: tuple[int, int], dilation: int) -> None:
    model = nn.Conv2d(2, 3, kernel, padding="same", dilation=dilation)
    for unit, one_way in itertools.product(UNITS.values(), WAYS):
        check(randomised(model), (normal(R, 2, 5, 6),), torch.tensor(unit), way=one_way)


class NegativePadding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(6, 3))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(ids, self.table, padding_idx=-2)


def test_a_padding_row_counted_from_the_end() -> None:
    ids = torch.tensor([[4, 1], [4, 4], [5, 4], [0, 4], [2, 3]])
    check(randomised(NegativePadding()), (ids,), torch.arange(R))


@proof
@given(way, units, precision, st.sampled_from([None, 0, -1]), st.booleans(), small)
def test_embedding(w, u, kind, padding, shared, positions) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    model = nn.ModuleDict({"words": nn.Embedding(6, 3, padding_idx=padding), "places": nn.Embedding(8, 3)})
    ids = torch.randint(0, 6, (R, positions), generator=torch.Generator().manual_seed(2))

    def call(m: nn.ModuleDict, ids: torch.Tensor) -> torch.Tensor:
        places = torch.arange(positions)
        return m["words"](ids) * (1 + m["places"](places if shared else places[None]))

    check(randomised(model), (ids,), u, dtype=kind, way=w, call=call)


def fixed(norm: nn.Module) -> nn.Module:
    """BatchNorm on statistics of its own."""
    generator = torch.Generator().manual_seed(7)
    norm.running_mean = torch.randn(3, generator=generator)
    norm.running_var = torch.rand(3, generator=generator) + 0.2
    return norm.eval()


NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "layer": (lambda: nn.LayerNorm(6), (R, 4, 6)),
    "layer without positions": (lambda: nn.LayerNorm(6), (R, 6)),
    "layer over two dimensions": (lambda: nn.LayerNorm((4, 6)), (R, 3, 4, 6)),
    "layer without bias": (lambda: nn.LayerNorm(6, bias=False), (R, 4, 6)),
    "rms": (lambda: nn.RMSNorm(6), (R, 4, 6)),
    "rms without positions": (lambda: nn.RMSNorm(6), (R, 6)),
    "group": (lambda: nn.GroupNorm(2, 6), (R, 6, 3, 4)),
    "group without positions": (lambda: nn.GroupNorm(2, 6), (R, 6)),
    "instance 1d": (lambda: nn.InstanceNorm1d(3, affine=True), (R, 3, 8)),
    "instance 2d": (lambda: nn.InstanceNorm2d(3, affine=True), (R, 3, 4, 5)),
    "instance 3d": (lambda: nn.InstanceNorm3d(3, affine=True), (R, 3, 2, 3, 4)),
    "fixed batch without positions": (lambda: fixed(nn.BatchNorm1d(3)), (R, 3)),
    "fixed batch 1d": (lambda: fixed(nn.BatchNorm1d(3)), (R, 3, 8)),
    "fixed batch 2d": (lambda: fixed(nn.BatchNorm2d(3)), (R, 3, 4, 5)),
    "fixed batch 3d": (lambda: fixed(nn.BatchNorm3d(3)), (R, 3, 2, 3, 4)),
}


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("shape", [(R, 3), (R, 3, 4), (R, 3, 2, 3), (2 * R, 3, 4)])
def test_prelu(unit: str, shape: tuple[int, ...]) -> None:
    for kind, slopes in itertools.product(PRECISIONS, [1, 3]):

        def call(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
            return m(x.flatten(0, 1)).unflatten(0, (len(x), -1)) if shape[0] > R else m(x)

        x = normal(*shape) if shape[0] == R else normal(R, 2, *shape[1:])
        check(randomised(nn.PReLU(slopes)), (x,), torch.tensor(UNITS[unit]), dtype=kind, call=call)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("unit", UNITS)
def test_normalisation(name: str, unit: str) -> None:
    build, shape = NORMS[name]
    for kind, frozen in itertools.product(PRECISIONS, ["", "weight", "bias"]):
        model = randomised(build())
        parameters = dict(model.named_parameters())
        if frozen in parameters and len(parameters) > 1:
            parameters[frozen].requires_grad_(False)
        check(model, (normal(*shape),), torch.tensor(UNITS[unit]), dtype=kind)


@proof
@given(
    way,
    units,
    precision,
    st.booleans(),
    st.booleans(),
    st.sampled_from(["self", "cross", "three"]),
    st.booleans(),
)
def test_multihead_attention(w, u, kind, first, separate, mode, weights) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    query, memory, other = normal(R, 3, 4), normal(R, 2, 4) + 0.3, normal(R, 2, 4) - 0.2
    widths = {"kdim": 4, "vdim": 3} if separate and mode == "three" else {}
    if widths:
        other = other[..., :3]
    model = randomised(nn.MultiheadAttention(4, 2, batch_first=first, bias=not widths, **widths))
    hidden = torch.zeros(R, 3 if mode == "self" else 2, dtype=torch.bool)
    hidden[1, 1] = hidden[3, 0] = True

    def call(
        m: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        chosen = {"self": (q, q, q), "cross": (q, k, k), "three": (q, k, v)}[mode]
        if not first:
            same = chosen[0] is chosen[1]
            chosen = tuple(x.transpose(0, 1) for x in chosen)
            chosen = (chosen[0],) * 3 if same else chosen
        out, attention = m(*chosen, key_padding_mask=mask, need_weights=weights)
        out = out if first else out.transpose(0, 1)
        return out if attention is None else torch.cat([out.flatten(1), attention.flatten(1)], 1)

    check(model, (query, memory, other, hidden), u, dtype=kind, way=w, call=call)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("layer", [DPLSTM, DPGRU])
def test_recurrent_layers_of_opacus(layer: type[nn.Module], unit: str) -> None:
    model = randomised(layer(3, 4, batch_first=True))
    check(model, (normal(R, 6, 3),), torch.tensor(UNITS[unit]), call=lambda m, x: m(x)[0])


RECURRENT: dict[str, Callable[..., nn.RNNBase]] = {
    "lstm": nn.LSTM,
    "lstm with a projection": lambda *sizes, **options: nn.LSTM(*sizes, proj_size=2, **options),
    "gru": nn.GRU,
    "rnn": nn.RNN,
    "rnn of relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_layers_of_torch(kind: str, both: bool, first: bool) -> None:
    """Two layers, a mask on what they put out, and their last states; with and without biases and a first state."""
    there = torch.arange(3) < torch.tensor([3, 1, 3, 2, 0])[:, None]

    def call(m: nn.RNNBase, x: torch.Tensor, start: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        starts = start.transpose(0, 1).contiguous()  # of each layer and direction
        given = starts
        if isinstance(m, nn.LSTM):
            given = (starts[..., : m.proj_size or 3], starts.flip(0))  # type: ignore[assignment]
        out, last = m(x if first else x.transpose(0, 1), given if m.bias else None)
        out = (out if first else out.transpose(0, 1)) * there[..., None]
        ends = torch.cat(last, 2) if isinstance(last, tuple) else last
        return torch.cat([out.flatten(1), ends.transpose(0, 1).flatten(1)], 1)

    inputs = (normal(R, 3, 3), normal(R, 4 if both else 2, 3), there)
    ways = ("keep", "ghost") if both else (None, "recompute")
    for unit, one_way, bias in zip(("patients", "scattered"), ways, (False, True), strict=True):
        model = RECURRENT[kind](3, 3, num_layers=2, bidirectional=both, batch_first=first, bias=bias)
        check(randomised(model), inputs, torch.tensor(UNITS[unit]), way=one_way, call=call)


@pytest.mark.parametrize("kind", RECURRENT)
def test_unrolled_layers_put_out_what_torchs_own_do(kind: str) -> None:
    """Also with dropout between the layers: the mask is the same one."""
    torch.manual_seed(0)
    model = RECURRENT[kind](3, 4, num_layers=3, dropout=0.5, bidirectional=True, batch_first=True).double()
    x = normal(R, 6, 3)

    def run(mode: ExitStack) -> list[torch.Tensor]:
        torch.manual_seed(1)
        with mode:
            out, last = model(x)
        return [out, *(last if isinstance(last, tuple) else [last])]

    units = Units.of(torch.arange(R))
    book = Book(SharedParts(trainable(model), Constants([])), units, 0.5, set())
    followed = ExitStack()
    followed.enter_context(Tracking(book))
    for ours, own in zip(run(followed), run(ExitStack()), strict=True):
        torch.testing.assert_close(ours, own)
        assert (ours.grad_fn is None) == (own.grad_fn is None)


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("frozen", ["", "ih", "hh", "bias"])
def test_recurrent_cells_and_frozen_parts(cell: type[nn.RNNCellBase], frozen: str) -> None:
    def call(m: nn.RNNCellBase, x: torch.Tensor) -> torch.Tensor:
        state = None
        for time in x.unbind(1):
            state = m(time, state)
        return state[0] if isinstance(state, tuple) else state  # type: ignore[return-value]

    whole = {nn.LSTMCell: nn.LSTM, nn.GRUCell: nn.GRU, nn.RNNCell: nn.RNN}[cell]
    for model, how in ((cell(3, 4), call), (whole(3, 4, batch_first=True), lambda m, x: m(x)[0])):
        for name, parameter in randomised(model).named_parameters():
            parameter.requires_grad_(not frozen or frozen not in name)
        check(model, (normal(R, 4, 3),), torch.tensor(UNITS["patients"]), call=how)


class Raw(nn.Module):
    """Class token, positions, per-channel gate and a temperature, as vision transformers have them."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 1, 4))
        self.places = nn.Parameter(torch.ones(1, 4, 4))
        self.gate = nn.Parameter(torch.ones(4))
        self.shift = nn.Parameter(torch.ones(4))
        self.temperature = nn.Parameter(torch.tensor(0.5))
        self.weight = nn.Parameter(torch.ones(4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.places
        x = self.shift - self.gate * x
        scale = per_record(self.temperature, len(x)).exp()
        return (x @ self.weight) / scale[:, None, None]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("kind", PRECISIONS)
def test_raw_parameters(unit: str, kind: torch.dtype) -> None:
    check(randomised(Raw()), (normal(R, 3, 4),), torch.tensor(UNITS[unit]), dtype=kind)


def test_per_record_outside_a_private_step_is_an_ordinary_view() -> None:
    parameter = nn.Parameter(torch.ones(2))
    (per_record(parameter, 3) * torch.arange(3.0)[:, None]).sum().backward()
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [3.0, 3.0]


class TransposedLinear(nn.Module):
    """The weight as [in, out], as transformers' Conv1D has it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, x.flatten(0, -2), self.weight).unflatten(0, x.shape[:-1])


@proof
@given(way, units, precision)
def test_transposed_linear(w, u, kind) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    check(randomised(TransposedLinear()), (normal(R, 4, 3),), u, dtype=kind, way=w)


class Shared(nn.Module):
    """One weight as a layer twice over, as an output projection, and as a table."""

    def __init__(self, uses: str) -> None:
        super().__init__()
        self.uses = uses
        self.table = nn.Embedding(4, 4)
        self.layer = nn.Linear(4, 4)
        self.layer.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids) if "t" in self.uses else F.one_hot(ids, 4).to(self.table.weight.dtype)
        if "l" in self.uses:
            x = self.layer(self.layer(x).tanh())
        return F.linear(x, self.table.weight) if "o" in self.uses else x


@proof
@given(way, units, precision, st.sampled_from(["t", "l", "tl", "to", "lo", "tlo"]))
def test_shared_parameters_are_clipped_on_the_sum_of_their_uses(w, u, kind, uses) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    ids = torch.randint(0, 4, (R, 3), generator=torch.Generator().manual_seed(2))
    check(randomised(Shared(uses)), (ids,), u, dtype=kind, way=w)


class Folded(nn.Module):
    """Several images and tokens of a record folded into the first dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Linear(4, 3)
        self.layer_norm = nn.LayerNorm(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        images = self.norm(self.conv(x.flatten(0, 1))).flatten(2).transpose(1, 2)  # [R m, L, 4]
        return self.layer_norm(self.linear(images.flatten(0, 1))).unflatten(0, (x.shape[0], -1))


@proof
@given(way, units, precision)
def test_several_images_of_a_record(w, u, kind) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    check(randomised(Folded()), (normal(R, 2, 2, 4, 4),), u, dtype=kind, way=w)


class LowRank(nn.Module):
    """LoRA (arXiv 2106.09685) around a frozen layer, between frozen layers."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.base, self.above = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.down, self.up = nn.Linear(6, 2, bias=False), nn.Linear(2, 6, bias=False)
        for layer in (self.below, self.base, self.above):
            layer.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.below(x).tanh()
        return self.above((self.base(x) + 2.0 * self.up(self.down(x))).tanh())


@proof
@given(way, units, precision)
def test_low_rank_adapters(w, u, kind) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    check(randomised(LowRank()), (normal(R, 3, 6),), u, dtype=kind, way=w)


@proof
@given(units, st.lists(st.booleans(), min_size=8, max_size=8).filter(any))
def test_any_trainable_set(u, trained) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    model = randomised(
        nn.Sequential(nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4), nn.Linear(4, 3), nn.Tanh(), nn.LayerNorm(3))
    )
    for parameter, flag in zip(model.parameters(), trained, strict=True):
        parameter.requires_grad_(flag)
    check(model, (normal(R, 2, 6),), u)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(4, 4),
    "conv": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 1), nn.Flatten(1, 2)
    ),
    "norm": lambda: nn.LayerNorm(4),
    "group": lambda: nn.GroupNorm(3, 3),
    "attention": lambda: nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True),
    "frozen": lambda: nn.Linear(4, 4).requires_grad_(False),
    "gelu": nn.GELU,
    "in place": lambda: nn.Sequential(nn.Linear(4, 4), nn.ELU(inplace=True)),
}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(list(LAYERS)), min_size=1, max_size=5), units, precision, clipping, way)
def test_random_compositions(names, u, kind, clip, w) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(4, 4), *(LAYERS[name]() for name in names), nn.Linear(4, 2))
    check(model, (normal(R, 3, 4),), u, dtype=kind, clipping=clip, way=w)
