"""Batches are independent Bernoulli draws per unit and step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from privacy.errors import SamplingError
from privacy.noise import PrivateRandom
from privacy.sampling import PartitionSampler, PoissonSampler

UNITS, STEPS = 500, 4000
ALARM = 1e-6


def _masks(n_units: int, rate: float, steps: int) -> np.ndarray:
    masks = np.zeros((steps, n_units), dtype=bool)
    for mask, indices in zip(masks, PoissonSampler(n_units, rate, steps, PrivateRandom()), strict=True):
        mask[indices] = True
    return masks


@pytest.mark.parametrize("rate", [0.01, 1 / 7, 0.5])
def test_every_unit_and_step_is_an_independent_coin(rate: float) -> None:
    masks = _masks(UNITS, rate, STEPS)
    assert stats.binomtest(int(masks.sum()), masks.size, rate).pvalue > ALARM
    for counts, trials in ((masks.sum(0), STEPS), (masks.sum(1), UNITS)):
        # Neither units nor batch sizes are more, or less, alike than coins: shuffling fails the first,
        # fixed-size batches the second.
        dispersion = ((counts - trials * rate) ** 2).sum() / (trials * rate * (1 - rate))
        tails = stats.chi2(counts.size)
        assert ALARM < tails.cdf(dispersion) < 1 - ALARM
    for shifted, original in ((masks[1:], masks[:-1]), (masks[:, 1:], masks[:, :-1])):
        together = np.mean((shifted - rate) * (original - rate)) / (rate * (1 - rate))
        assert abs(together) < stats.norm.isf(ALARM / 2) / math.sqrt(shifted.size)


def test_indices_are_distinct_sorted_int64_and_in_range() -> None:
    for indices in PoissonSampler(50, 0.3, 100, PrivateRandom()):
        assert indices.dtype == np.int64
        assert np.all(np.diff(indices) > 0)
        assert np.all((indices >= 0) & (indices < 50))


def test_empty_batches_are_yielded_and_every_step_is_there() -> None:
    batches = list(PoissonSampler(3, 0.05, 400, PrivateRandom()))
    assert len(batches) == 400
    assert sum(batch.size == 0 for batch in batches) > 200
    assert [batch.size for batch in PoissonSampler(0, 0.5, 3, PrivateRandom())] == [0, 0, 0]


def test_rate_one_takes_everybody() -> None:
    assert all(np.array_equal(batch, np.arange(9)) for batch in PoissonSampler(9, 1.0, 5, PrivateRandom()))


def test_a_second_pass_and_a_seed_give_other_batches() -> None:
    sampler = PoissonSampler(1000, 0.5, 2, PrivateRandom())
    torch.manual_seed(0)
    first = list(sampler)
    torch.manual_seed(0)
    second = list(sampler)
    assert len(sampler) == len(first) == 2
    assert not any(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("n_units", "rate", "steps", "random", "name"),
    [
        (-1, 0.5, 1, PrivateRandom(), "n_units"),
        (2.5, 0.5, 1, PrivateRandom(), "n_units"),
        (10, 0.0, 1, PrivateRandom(), "sampling_rate"),
        (10, 1.5, 1, PrivateRandom(), "sampling_rate"),
        (10, math.nan, 1, PrivateRandom(), "sampling_rate"),
        (10, 0.5, -1, PrivateRandom(), "steps"),
        (10, 0.5, True, PrivateRandom(), "steps"),
        (10, 0.5, 1, np.random.default_rng(0), "PrivateRandom"),
    ],
)
def test_bad_values_are_refused_by_name(
    n_units: int, rate: float, steps: int, random: PrivateRandom, name: str
) -> None:
    with pytest.raises(SamplingError, match=name):
        PoissonSampler(n_units, rate, steps, random)


def test_a_partition_holds_everybody_once_each_placed_independently() -> None:
    sampler = PartitionSampler(UNITS, 5, PrivateRandom())
    places = np.empty((200, UNITS), dtype=np.int64)
    for row in places:
        batches = list(sampler)
        assert len(batches) == len(sampler) == 5
        assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(UNITS))
        for step, batch in enumerate(batches):
            row[batch] = step
    assert stats.chisquare(np.bincount(places.ravel())).pvalue > ALARM
    sizes = (places == 0).sum(1)  # of batches of a fixed size the variance would be 0
    dispersion = ((sizes - UNITS / 5) ** 2).sum() / (UNITS * 0.2 * 0.8)
    assert ALARM < stats.chi2(200).cdf(dispersion) < 1 - ALARM
    same = (places[:, 1:] == places[:, :-1]).mean()
    assert abs(same - 0.2) < 6 * math.sqrt(0.16 / places[:, 1:].size)
    with pytest.raises(SamplingError, match="steps"):
        PartitionSampler(3, 0, PrivateRandom())
