"""What crosses the network: rounding within its bound, and nothing unchecked is taken."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from mmmed.errors import WireError
from mmmed.wire import MAX_RMS, Encoding, pack, unpack

SHAPES = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=4)


def tensors(shapes: list[tuple[int, ...]], seed: int, size: float) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {f"p{i}": size * torch.randn(shape, generator=random) for i, shape in enumerate(shapes)}


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(0, 99), st.sampled_from([1e-8, 1.0, 1e3]))
def test_a_round_trip_loses_no_more_than_the_encoding_says(
    shapes: list[tuple[int, ...]], seed: int, size: float
) -> None:
    sent = tensors(shapes, seed, size)
    like = {name: tuple(value.shape) for name, value in sent.items()}
    bounds: dict[Encoding, float] = {"float32": 0.0, "bfloat16": 2.0**-8, "int8": 0.5 / 127}
    for encoding, bound in bounds.items():
        found = unpack(pack(sent, encoding), like)
        assert list(found) == list(sent)
        for name, value in sent.items():
            assert found[name].dtype == torch.float32 and found[name].shape == value.shape
            if not value.numel():
                continue
            rows = value.reshape(value.shape[0], -1) if value.dim() > 1 else value.reshape(1, -1)
            largest = rows.abs().amax(1, keepdim=True)
            error = (found[name].reshape(rows.shape) - rows).abs()
            assert bool((error <= largest * bound * 1.0001 + 1e-30).all())


def test_encodings_cost_four_two_and_one_bytes_a_value() -> None:
    sent = {"w": torch.randn(1000, 1000)}
    sizes = {encoding: len(pack(sent, encoding)) / 1e6 for encoding in ("float32", "bfloat16", "int8")}  # type: ignore[arg-type]
    assert sizes == {name: pytest.approx(n, rel=0.01) for name, n in zip(sizes, (4, 2, 1), strict=True)}


BAD: dict[str, dict[str, torch.Tensor]] = {
    "keys-differ": {"other": torch.zeros(2)},
    "shape-differs": {"w": torch.zeros(3)},
    "dtype-differs": {"w": torch.zeros(2, dtype=torch.float64)},
    "not-finite": {"w": torch.tensor([0.0, float("nan")])},
    "too-large": {"w": torch.full((2,), 2 * MAX_RMS)},
}


@pytest.mark.parametrize("code", BAD)
def test_bad_tensors_are_refused_with_their_code(code: str) -> None:
    with pytest.raises(WireError) as caught:
        unpack(save(BAD[code]), {"w": (2,)})
    assert caught.value.code == code


def test_int8_without_its_scale_or_with_a_wrong_one_is_refused() -> None:
    whole = torch.ones(2, 2, dtype=torch.int8)
    for scale in ({}, {"scale/w": torch.ones(3)}, {"scale/w": torch.ones(2, dtype=torch.float64)}):
        with pytest.raises(WireError) as caught:
            unpack(save({"w": whole, **scale}), {"w": (2, 2)})
        assert caught.value.code == "dtype-differs"
    with pytest.raises(WireError) as caught:
        unpack(save({"w": whole, "scale/w": torch.tensor([1.0, float("inf")])}), {"w": (2, 2)})
    assert caught.value.code == "not-finite"


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_refused_without_a_crash(data: bytes) -> None:
    for payload in (data, save({"w": torch.zeros(2)})[: len(data)], pickle.dumps(data)):
        with pytest.raises(WireError):
            unpack(payload, {"w": (2,)})


def test_a_diverged_update_is_not_sent() -> None:
    for value, code in ((float("inf"), "not-finite"), (1e30, "too-large")):
        with pytest.raises(WireError) as caught:
            pack({"w": torch.tensor([value])}, "float32")
        assert caught.value.code == code
