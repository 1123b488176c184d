"""Whole-number noise: its table against slow exact arithmetic, its certificate, and its draws as a distribution."""

from __future__ import annotations

import copy
import math
import os
import pickle
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy import discrete
from privacy.discrete import (
    CHUNK,
    LEAST_STD,
    MOST_STD,
    DiscreteGaussian,
    delta_increase,
    discrete_std,
    gaussian_std,
)
from privacy.errors import NoiseError

ALARM = 1e-6  # false-alarm rate of each statistical test
WHOLE = 1 << 192


def true_pmf(std: float) -> dict[int, Decimal]:
    """P(n) of the discrete Gaussian, in 110 digits, by the definition."""
    with localcontext(prec=110):
        variance = Decimal(std) ** 2
        reach = math.ceil(20 * std)
        rho = {n: (-Decimal(n * n) / (2 * variance)).exp() for n in range(reach + 1)}
        total = rho[0] + 2 * sum(list(rho.values())[1:])
        return {n: rho[abs(n)] / total for n in range(-reach, reach + 1)}


class _Words:
    """A keystream that says what it is told to."""

    def __init__(self, *words: bytes) -> None:
        self._words = list(words)

    def update(self, zeros: bytes) -> bytes:
        word = self._words.pop(0)
        assert len(word) == len(zeros)
        return word


@pytest.mark.parametrize("std", [8.0, 11.3, 61.7])
def test_the_table_is_below_the_true_probabilities_but_at_zero_and_its_distance_is_certified(
    std: float,
) -> None:
    table = DiscreteGaussian(std)._table
    first = np.bincount(
        table._first[: table._covered].astype(np.int64) + table.largest, minlength=2 * table.largest + 1
    )
    second = np.diff(table._second, prepend=0)
    third = np.diff(np.array(table._third, dtype=object), prepend=0)
    held = [(int(a) << 176) + (int(b) << 160) + int(c) for a, b, c in zip(first, second, third, strict=True)]
    assert sum(held) == WHOLE
    with localcontext(prec=110):
        wanted = true_pmf(std)
        away = Decimal(0)
        for n in wanted:
            have = Decimal(held[n + table.largest]) / WHOLE if abs(n) <= table.largest else Decimal(0)
            assert n == 0 or wanted[n] - Decimal(2) ** -180 < have <= wanted[n]
            away += abs(have - wanted[n]) / 2
        assert 0 < away <= Decimal(table.distance) <= 4 * away


@settings(max_examples=20, deadline=None)
@given(exponent=st.fractions(min_value=-1, max_value=-Fraction(1, 3000), max_denominator=10**9))
def test_exponentials_and_weights_lie_between_their_bounds(exponent: Fraction) -> None:
    low, high = discrete._exponential(exponent)
    below, above = discrete._weights(low, up=False), discrete._weights(high, up=True)
    with localcontext(prec=130):
        true = [
            (Decimal(exponent.numerator) / exponent.denominator * n * n).exp() * (1 << 320)
            for n in range(3 * len(above))
        ]
        assert low <= true[1] <= high <= low + 4
        for n in range(1, len(below) - 1):
            assert below[n] <= true[n] <= below[n] + (1 << 128)
        for n in range(1, len(above) - 1):
            assert above[n] - (1 << 128) <= true[n] <= above[n]
        assert above[-1] >= sum(true[len(above) - 1 :])


def test_every_first_digit_has_its_outcome() -> None:
    table = DiscreteGaussian(8.0)._table
    digits = np.arange(table._covered, dtype=np.uint16)
    drawn = table.look_up(digits, _Words(), np.empty(len(digits), np.int16))  # asks for no further bits
    for n, p in true_pmf(8.0).items():
        if n and abs(n) <= table.largest:
            assert np.count_nonzero(drawn == n) == int(p * (1 << 16))


@pytest.mark.parametrize("third", [0, 1, 12345 << 140, (1 << 160) - 1])
def test_the_second_and_third_digits_split_what_the_first_leave(third: int) -> None:
    one = (5 << 160) + third  # P(1) = 5 / 2^32 + third / 2^192; P(-1) = 65534 / 2^16
    table = discrete._Table([65534 << 176, (2 << 176) - one, one], 0.0)
    more = np.arange(1 << 16, dtype="<u2")
    last_digit = np.full(1 << 16, 65535, np.uint16)  # the only one that the first digits leave open

    def drawn(third_word: int) -> np.ndarray:
        words = _Words(more.tobytes(), third_word.to_bytes(20, "little"))
        return table.look_up(last_digit, words, np.empty(1 << 16, np.int16))

    for third_word in {0, (1 << 160) - 1, (1 << 160) - third, max(0, (1 << 160) - third - 1)} - {1 << 160}:
        outcomes = drawn(third_word)
        decided_last = third and third_word >= (1 << 160) - third
        assert np.count_nonzero(outcomes == 1) == 5 + bool(decided_last)
        assert np.count_nonzero(outcomes == 0) == (1 << 16) - 5 - bool(decided_last)


@pytest.mark.parametrize("std", [8.0, 40.0, 300.0, 1500.0])
def test_draws_have_the_exact_probabilities(std: float) -> None:
    draws = DiscreteGaussian(std).draw(3_000_000)
    reach = int(3.5 * std)
    expected = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * std**2))
    expected *= len(draws) / (std * math.sqrt(2 * math.pi))  # fact 1.
    inside = draws[np.abs(draws) <= reach]
    counts = np.bincount(inside + reach, minlength=2 * reach + 1)
    tails = [np.count_nonzero(draws < -reach), np.count_nonzero(draws > reach)]
    rest = (len(draws) - expected.sum()) / 2
    statistic = stats.chisquare(np.append(counts, tails), np.append(expected, [rest, rest]))
    assert expected.min() > 1
    assert statistic.pvalue > ALARM


@pytest.mark.parametrize("std", [1e5, 1.3e6, 3e7, 2.0**40])
def test_many_levels_draw_a_normal_in_the_bulk_in_the_tails_and_in_the_last_digit(std: float) -> None:
    n = 2_000_000
    noise = DiscreteGaussian(std)
    draws = noise.draw(n)
    bound = stats.norm.isf(ALARM / 2)
    assert draws.dtype == np.int64
    assert np.abs(draws).max() <= noise.bound <= 20 * std
    assert abs(draws.mean()) < bound * std / math.sqrt(n)
    assert abs(draws.var() / std**2 - 1) < bound * math.sqrt(2 / n)
    cells = np.histogram(stats.norm.cdf(draws / std), bins=200, range=(0, 1))[0]
    assert stats.chisquare(cells).pvalue > ALARM
    for tail in (draws > 4 * std, draws < -4 * std):
        assert stats.binomtest(int(tail.sum()), n, stats.norm.sf(4)).pvalue > ALARM
    for modulus in (2, 3, noise._factor, 97):
        assert stats.chisquare(np.bincount(draws % modulus)).pvalue > ALARM
    for lag in (1, 2, CHUNK - 1, CHUNK, 2 * CHUNK, n // 2):
        left, right = draws[:-lag] / std, draws[lag:] / std
        assert abs(np.mean(left * right)) < bound / math.sqrt(n - lag)
        assert abs(np.mean((left**2 - 1) * (right**2 - 1)) / 2) < bound / math.sqrt(n - lag)


@settings(max_examples=200, deadline=None)
@given(std=st.floats(LEAST_STD, MOST_STD))
def test_every_deviation_is_met_within_the_proofs_conditions(std: float) -> None:
    levels, factor = discrete._levels(std)
    base = float(discrete._base(std, levels, factor)) ** 0.5
    assert base <= 640
    assert levels == 1 or base >= 2.5 * math.hypot(factor, 1) * (1 - 1e-12)
    assert base * math.sqrt(sum(float(factor) ** (2 * j) for j in range(levels))) == pytest.approx(
        std, rel=1e-12
    )


@pytest.mark.parametrize("std", [LEAST_STD, 1000.0, 2.0**20, 2.0**24.5, MOST_STD])
def test_the_certificate_is_far_below_any_delta(std: float) -> None:
    assert 0 < DiscreteGaussian(std).distance < 2.0**-170
    everything = 1e9 * 1e5 * 1e3  # coordinates x steps x sites
    assert 0 < delta_increase(std, everything, epsilon=8.0) < 1e-20


def test_delta_grows_with_the_draws_and_with_epsilon() -> None:
    one = delta_increase(2.0**20, 1, 0.0)
    assert one == pytest.approx(2 * DiscreteGaussian(2.0**20).distance)
    assert delta_increase(2.0**20, 1000, 3.0) == pytest.approx(500 * (1 + math.exp(3.0)) * one)


@pytest.mark.parametrize(
    ("factor", "inner", "outer"), [(1, 1.5, 1.5), (2, 1.9, 1.4), (3, 3.2, 1.3), (5, 8.0, 2.0)]
)
def test_sums_are_as_near_to_a_discrete_gaussian_as_the_bound_says(
    factor: int, inner: float, outer: float
) -> None:
    # Fact 2., where its bound is large enough to be seen in float64.
    std = math.hypot(inner, factor * outer)
    reach = math.ceil(6 * std)
    places = np.arange(-4 * reach, 4 * reach + 1)

    def law(deviation: float, points: np.ndarray) -> np.ndarray:
        return np.exp(-(points**2) / (2 * deviation**2)) / np.exp(-(places**2) / (2 * deviation**2)).sum()

    outcomes = np.arange(-reach, reach + 1)
    summed = np.array([(law(outer, places) * law(inner, n - factor * places)).sum() for n in outcomes])
    ratio = summed / law(std, outcomes)
    smoothing = 2.1 * math.exp(-2 * math.pi**2 * (inner * outer / std) ** 2)
    bound = (1 + smoothing) / (1 - smoothing)
    assert 1 / bound * (1 - 1e-12) <= ratio.min() <= ratio.max() <= bound * (1 + 1e-12)
    assert ratio.max() - 1 > 1e-3 * (bound - 1) or bound - 1 < 1e-11


@pytest.mark.parametrize("radius", [0.9, 1.2])
def test_a_discrete_gaussian_is_a_rounded_one_as_nearly_as_the_bound_says(radius: float) -> None:
    # Fact 3. by numerical integration, with a radius small enough that the bound is seen.
    std = 4.0
    fine = np.arange(-40, 40, 1 / 64)
    wide = math.sqrt(std**2 - radius**2)
    density = np.exp(-(fine**2) / (2 * wide**2)) / (wide * math.sqrt(2 * math.pi)) / 64
    whole = np.arange(-80, 81)
    kernel = np.exp(-((whole[:, None] - fine) ** 2) / (2 * radius**2))
    rounded = (kernel / kernel.sum(0) * density).sum(1)
    law = np.exp(-(whole**2) / (2 * std**2))
    ratio = (rounded / (law / law.sum()))[60:101]  # to five deviations
    smoothing = 2.1 * math.exp(-2 * math.pi**2 * radius**2)
    assert np.abs(np.log(ratio)).max() <= math.log((1 + smoothing) / (1 - smoothing)) + 1e-10


@given(continuous=st.floats(10, 1e12), shares=st.integers(1, 1000))
def test_shares_add_up_to_the_continuous_deviation_and_no_more(continuous: float, shares: int) -> None:
    std = discrete_std(continuous, shares)
    assert continuous <= gaussian_std(std, shares) <= continuous * (1 + 1e-14)
    assert shares * std**2 == pytest.approx(continuous**2 + 9)


@pytest.mark.parametrize("shares", [1, 2, 3, 7])
def test_hardly_any_noise_is_no_error_of_arithmetic(shares: int) -> None:
    assert discrete_std(1e-30, shares) == pytest.approx(3 / math.sqrt(shares))


@pytest.mark.parametrize("n", [0, 1, 2, CHUNK - 1, CHUNK, CHUNK + 1])
def test_any_number_of_draws(n: int) -> None:
    assert DiscreteGaussian(1e6).draw(n).shape == (n,)
    assert sum(map(len, DiscreteGaussian(1e6).chunks(n))) == n


@pytest.mark.parametrize("std", [0.0, 7.9, math.nan, math.inf, -1.0, 2.0**49])
def test_a_deviation_beyond_the_proof_is_refused(std: float) -> None:
    with pytest.raises(NoiseError, match="lattice steps"):
        DiscreteGaussian(std)


def test_forks_copies_and_pickles_draw_apart() -> None:
    noise = DiscreteGaussian(2.0**30)
    noise.draw(4)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, noise.draw(4).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    forked = np.frombuffer(os.read(reader, 64), np.int64)
    clones = [copy.copy(noise), copy.deepcopy(noise), pickle.loads(pickle.dumps(noise)), noise]  # noqa: S301
    values = np.stack([forked, *(clone.draw(4) for clone in clones)])
    assert len(np.unique(values)) >= values.size - 1  # two may meet by chance, once in 10^7
