"""Rounding, clamp and modulus at their bounds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from privacy.errors import SecureSumRefusal
from privacy.secure_sum import Lattice
from tests.privacy.secure_sum.federation import make_terms

COARSE = Lattice(step=2.0**-6, bits=64, sites=4, dimension=50, clip=1.0, noise_multiplier=2.0, honest=3)
finite = st.floats(-1e12, 1e12)


@settings(max_examples=300, deadline=None)
@given(base=arrays(np.float64, 50, elements=finite), way=arrays(np.float64, 50, elements=st.floats(-1, 1)))
def test_a_patient_moves_the_rounded_sum_by_no_more_than_the_noise_is_made_for(
    base: np.ndarray, way: np.ndarray
) -> None:
    way = way * min(1.0, COARSE.clip / max(np.linalg.norm(way), 1e-300))
    moved = base + way
    exact = np.linalg.norm(moved - base)  # what float64 made of it
    steps = np.linalg.norm((COARSE.encode(moved) - COARSE.encode(base)).astype(np.float64))
    assert steps * COARSE.step <= exact + COARSE.step * math.sqrt(50) + 1e-9


def test_the_rounding_factor_is_reached_but_for_a_trifle() -> None:
    # All coordinates of the sum lie just below one half, and the patient moves every one just above the next half.
    d = COARSE.dimension
    base = np.full(d, COARSE.step * (0.5 - 1e-9))
    way = np.full(d, COARSE.clip / math.sqrt(d) * (1 - 1e-12))
    whole = math.floor(way[0] / COARSE.step)
    way[:] = COARSE.step * (whole + 2e-9)
    moved = COARSE.step * np.linalg.norm(COARSE.encode(base + way) - COARSE.encode(base))
    exact = np.linalg.norm(way)
    assert exact <= COARSE.clip
    assert moved == pytest.approx(exact + COARSE.step * math.sqrt(d), rel=1e-6)  # all of the added term
    assert moved <= COARSE.clip * COARSE.factor


@settings(max_examples=200, deadline=None)
@given(
    values=arrays(np.float64, 50, elements=st.floats(allow_nan=True, allow_infinity=True)),
    other=arrays(np.float64, 50, elements=st.floats(allow_nan=False, allow_infinity=False)),
)
def test_the_clamp_holds_for_any_numbers_and_moves_no_two_apart(
    values: np.ndarray, other: np.ndarray
) -> None:
    steps = COARSE.encode(values)
    assert steps.dtype == np.int64
    assert np.abs(steps).max() <= COARSE.clamp
    inside = np.abs(values) < COARSE.clamp * COARSE.step / 2
    assert np.array_equal(steps[inside], np.rint(values[inside] / COARSE.step).astype(np.int64))
    assert np.all(steps[np.isnan(values)] == 0)
    assert np.all(steps[values == np.inf] == COARSE.clamp)
    with np.errstate(over="ignore", invalid="ignore"):
        apart = np.abs(np.rint(values / COARSE.step) - np.rint(other / COARSE.step))
        clamped = np.abs(steps - COARSE.encode(other)).astype(np.float64)
    assert np.all((clamped <= apart) | np.isnan(apart))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_both_kinds_of_numbers_are_rounded_alike(kind: type) -> None:
    values = np.linspace(-3, 3, 50).astype(kind)
    assert np.array_equal(COARSE.encode(values), np.rint(values.astype(np.float64) * 64).astype(np.int64))


@pytest.mark.parametrize(
    "vector", [np.zeros(49), np.zeros((50, 1)), np.zeros(50, np.int64), np.zeros(50, np.float16)]
)
def test_another_shape_or_type_is_refused(vector: np.ndarray) -> None:
    with pytest.raises(SecureSumRefusal, match="50 float32 or float64"):
        COARSE.encode(vector)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("sites", [2, 3, 4, 16, 100])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_numbers_of_all_sites_do_not_wrap(bits: int, sites: int, sign: int) -> None:
    lattice = make_terms(sites, word_bits=bits, dimension=3).lattice
    most = sign * (lattice.clamp + lattice.noise.bound)
    word = np.array([most, -most, 0], np.int64).view(np.uint64).astype(lattice.word)
    total = np.zeros(3, lattice.word)
    for _ in range(sites):
        total += word
    assert np.array_equal(
        lattice.decode(total), np.array([float(most * sites), float(-most * sites), 0.0]) * lattice.step
    )
    assert sites * abs(most) < 2 ** (bits - 2)


@pytest.mark.parametrize("sites", [2, 4, 16, 100])
def test_the_clamp_leaves_no_room_unused_in_32_bits(sites: int) -> None:
    lattice = make_terms(sites, word_bits=32).lattice
    assert sites * (lattice.clamp + 1 + lattice.noise.bound) >= 2**30
    assert lattice.clamp * lattice.step >= lattice.clip


def test_words_without_room_for_a_patient_are_refused() -> None:
    with pytest.raises(SecureSumRefusal, match="64-bit"):
        make_terms(16, word_bits=32, lattice_step=2.0**-27)
    assert make_terms(16, word_bits=64, lattice_step=2.0**-27).lattice.clamp > 0


@pytest.mark.parametrize("step", [0.0, -0.5, 0.3, math.nan, math.inf])
def test_a_step_that_is_no_power_of_two_is_refused(step: float) -> None:
    with pytest.raises(SecureSumRefusal, match="power of two"):
        replace(COARSE, step=step)


def test_a_step_that_outweighs_the_clipping_norm_is_refused() -> None:
    with pytest.raises(SecureSumRefusal, match="finer"):
        make_terms(dimension=10**6, lattice_step=2.0**-9)


@pytest.mark.parametrize("multiplier", [1e-9, 1e15])
def test_noise_that_the_lattice_does_not_hold_is_refused(multiplier: float) -> None:
    with pytest.raises(SecureSumRefusal, match="lattice step"):
        replace(COARSE, noise_multiplier=multiplier)


@pytest.mark.parametrize("honest", [1, 2, 3, 4])
@pytest.mark.parametrize("dimension", [1, 2000, 10**7])
def test_the_honest_sites_shares_make_the_whole_noise_and_the_row_over_colluders(
    honest: int, dimension: int
) -> None:
    lattice = make_terms(honest=honest, dimension=dimension, least_cohort=4).lattice
    assert 2.0 <= lattice.multiplier(honest) < 2.0 * (1 + 1e-9)
    for present in range(1, 5):
        assert lattice.multiplier(present) == pytest.approx(2.0 * math.sqrt(present / honest), rel=1e-9)
    share = lattice.noise.std * lattice.step / lattice.factor
    assert share == pytest.approx(2.0 / math.sqrt(honest), rel=1e-9)
    assert lattice.factor == 1 + 2.0**-20 * math.sqrt(dimension)


@pytest.mark.parametrize("bits", [32, 64])
def test_a_number_in_the_empty_half_of_the_range_is_garbage(bits: int) -> None:
    lattice = make_terms(word_bits=bits, dimension=2).lattice
    edge = 1 << (bits - 2)
    for value in (edge, -edge, -2 * edge, 2 * edge - 1):
        with pytest.raises(SecureSumRefusal, match="cancel"):
            lattice.decode(np.array([0, value], np.int64).view(np.uint64).astype(lattice.word))
    for value in (edge - 1, 1 - edge):
        lattice.decode(np.array([0, value], np.int64).view(np.uint64).astype(lattice.word))
