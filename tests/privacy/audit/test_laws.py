"""The laws of independent Gaussian noise: ideal noise breaks them as seldom as they say, and faults always."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from privacy.audit.laws import (
    dependence_p_value,
    likeness_p_value,
    normal_p_value,
    quieted,
    repetition_p_value,
    worst,
)
from privacy.audit.result import LEVEL

RUNS = 200
FLOAT32 = 2.0**-23
LAWS: dict[str, Callable[[np.ndarray], float]] = {
    "normal": normal_p_value,
    "dependence": dependence_p_value,
    "likeness": likeness_p_value,
    "repetition": lambda noise: repetition_p_value(noise, FLOAT32),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("shape", [(3, 2), (40, 70), (16, 400)])
def test_ideal_noise_breaks_a_law_no_more_often_than_its_p_value_says(
    law: str, shape: tuple[int, int]
) -> None:
    generator = np.random.default_rng(0)
    found = [
        LAWS[law](generator.standard_normal(shape).astype(np.float32).astype(float)) for _ in range(RUNS)
    ]
    small = sum(p < 0.05 for p in found)
    assert stats.binom.sf(small - 1, RUNS, 0.05) > 1e-6


def test_equal_numbers_of_float32_are_expected() -> None:
    noise = np.random.default_rng(1).standard_normal((400, 1000)).astype(np.float32).astype(float)
    assert len(np.unique(np.abs(noise))) < noise.size - 1000  # many are equal by chance
    assert repetition_p_value(noise, FLOAT32) > 0.05


@given(st.integers(1, 30), st.floats(-3, 3).filter(lambda x: abs(x) > 0.01))
def test_a_step_made_of_earlier_ones_is_found(step: int, weight: float) -> None:
    noise = np.random.default_rng(step).standard_normal((32, 200))
    noise[31] = weight * noise[step] - noise[0]
    assert dependence_p_value(noise) < LEVEL


def test_noise_of_few_numbers_is_found_whatever_their_mixture() -> None:
    generator = np.random.default_rng(2)
    few, spread = generator.standard_normal((48, 64)), generator.standard_normal((64, 5000)) / 8
    assert dependence_p_value(few @ spread) < LEVEL


def test_a_part_that_all_coordinates_share_is_found() -> None:
    generator = np.random.default_rng(3)
    noise = 0.98 * generator.standard_normal((32, 2000)) + 0.2 * generator.standard_normal((32, 1))
    assert dependence_p_value(noise) < LEVEL


def test_one_pair_of_equal_steps_among_many_is_found() -> None:
    noise = np.random.default_rng(4).standard_normal((500, 64))
    noise[433] = 1.1 * noise[12]
    assert likeness_p_value(noise) < LEVEL
    noise[433] = -noise[12] * np.resize([1, -1, -1], 64)
    assert repetition_p_value(noise, FLOAT32) < LEVEL


@pytest.mark.parametrize("shape", [lambda u: 12**0.5 * (u - 0.5), lambda u: np.sign(u - 0.5)])
def test_another_law_of_the_same_size_is_found(shape: Callable[[np.ndarray], np.ndarray]) -> None:
    assert normal_p_value(shape(np.random.default_rng(5).random((32, 100)))) < LEVEL


def test_cut_tails_are_found() -> None:
    noise = stats.truncnorm(-3, 3).rvs(200_000, random_state=6).reshape(100, -1)
    assert normal_p_value(noise) < LEVEL


def test_louder_noise_is_brought_to_size_and_quieter_is_not() -> None:
    noise = np.random.default_rng(7).standard_normal((32, 100))
    assert quieted(noise) is noise
    assert normal_p_value(quieted(3 * noise)) > LEVEL
    assert quieted(0.5 * noise).std() < 0.6


def test_the_worst_of_several_pays_for_their_number() -> None:
    assert worst([0.5, 0.01, 0.2]) == pytest.approx(0.03)
    assert worst([0.9, 0.8]) == worst([]) == 1.0
