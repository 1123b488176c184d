"""The noise as a distribution, and as something that no seed, fork or copy can repeat."""

from __future__ import annotations

import copy
import math
import multiprocessing
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy import noise
from privacy.discrete import CHUNK, DiscreteGaussian, discrete_std, gaussian_std
from privacy.errors import NoiseError
from privacy.noise import PrivateRandom, lattice_step, noise_std, sensitivity_inflation

DRAWS = 10_000_000
ALARM = 1e-6  # false-alarm rate of each statistical test


@pytest.fixture(scope="module")
def draws() -> np.ndarray:
    return PrivateRandom().normal(DRAWS)


def test_mean_and_variance_are_those_of_a_standard_normal(draws: np.ndarray) -> None:
    bound = stats.norm.isf(ALARM / 2)
    assert draws.dtype == np.float64
    assert draws.shape == (DRAWS,)
    assert abs(draws.mean()) < bound / math.sqrt(DRAWS)
    assert abs(draws.var() - 1) < bound * math.sqrt(2 / DRAWS)


def test_draws_are_normal_in_the_bulk_and_in_the_tails(draws: np.ndarray) -> None:
    # 200 cells of equal probability, then the tails beyond 3, 4 and 5 on either side.
    cells = np.histogram(stats.norm.cdf(draws), bins=200, range=(0, 1))[0]
    assert stats.chisquare(cells).pvalue > ALARM
    for edge in (3.0, 4.0, 5.0):
        for tail in (draws > edge, draws < -edge):
            assert stats.binomtest(int(tail.sum()), DRAWS, stats.norm.sf(edge)).pvalue > ALARM


@pytest.mark.parametrize("lag", [1, 2, CHUNK // 2, CHUNK - 1, CHUNK, 2 * CHUNK, 4 * CHUNK, DRAWS // 2])
def test_draws_are_independent_also_between_chunks(draws: np.ndarray, lag: int) -> None:
    # Neither their values nor their sizes correlate.
    bound = stats.norm.isf(ALARM / 2) / math.sqrt(DRAWS - lag)
    left, right = draws[:-lag], draws[lag:]
    assert abs(np.mean(left * right)) < bound
    assert abs(np.mean((left**2 - 1) * (right**2 - 1)) / 2) < bound


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 8])
def test_any_number_of_draws(n: int) -> None:
    assert PrivateRandom().normal(n).shape == (n,)
    assert PrivateRandom().bernoulli(n, 0.5).shape == (n,)


def test_public_seeds_do_not_repeat_the_noise() -> None:
    import monai

    seen = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        monai.utils.set_determinism(seed=0)
        random = PrivateRandom()
        tensor = torch.zeros(8)
        random.add_gaussian_(tensor, 1.0)
        seen += [random.normal(8), tensor.numpy(), random.bernoulli(64, 0.5)]
    monai.utils.set_determinism(seed=None)
    assert not np.any(seen[0] == seen[3])
    assert not np.any(seen[1] == seen[4])
    assert not np.array_equal(seen[2], seen[5])


def test_drawing_leaves_the_public_generators_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    PrivateRandom().add_gaussian_(torch.zeros(8), 1.0)
    assert torch.equal(torch.rand(4), expected)


def test_a_forked_child_does_not_repeat_its_parent() -> None:
    random = PrivateRandom()
    random.normal(4)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, random.normal(4).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    assert not np.any(np.frombuffer(os.read(reader, 64)) == random.normal(4))


def _draw(random: PrivateRandom) -> np.ndarray:
    return random.normal(4)


def test_copies_and_pickles_carry_nothing_to_repeat() -> None:
    random = PrivateRandom()
    clones = [copy.copy(random), copy.deepcopy(random), pickle.loads(pickle.dumps(random))]  # noqa: S301
    values = np.stack([random.normal(4), *(clone.normal(4) for clone in clones)])
    assert len(np.unique(values)) == values.size


def test_workers_of_a_pool_draw_apart() -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        values = np.stack(pool.map(_draw, [PrivateRandom()] * 4, chunksize=1))
    assert len(np.unique(values)) == values.size


@pytest.mark.parametrize("p", [0.0, 1e-3, 1 / 7, 0.5, 0.9, 1.0])
def test_coins_have_their_probability_and_are_independent(p: float) -> None:
    coins = PrivateRandom().bernoulli(1_000_000, p)
    assert coins.dtype == np.bool_
    assert stats.binomtest(int(coins.sum()), coins.size, p).pvalue > ALARM
    pairs = int((coins[1:] & coins[:-1]).sum())
    assert abs(pairs - p * p * coins.size) <= 6 * math.sqrt(coins.size * p * p * (1 + 2 * p)) + 1e-9


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("std", [1e-3, 0.7, 30.0])
def test_added_noise_has_the_asked_standard_deviation(dtype: torch.dtype, std: float) -> None:
    tensor = torch.zeros(200_000, dtype=dtype)
    PrivateRandom().add_gaussian_(tensor, std)
    values = tensor.double().numpy() / std
    bound = stats.norm.isf(ALARM / 2)
    assert tensor.dtype == dtype
    assert abs(values.mean()) < bound / math.sqrt(values.size)
    assert abs(values.var() - 1) < bound * math.sqrt(2 / values.size) + torch.finfo(dtype).eps


@settings(max_examples=50, deadline=None)
@given(std=st.floats(1e-6, 1e6), offset=st.floats(-1e3, 1e3), n=st.integers(1, 100))
def test_the_release_lies_on_the_lattice_whatever_the_sum(std: float, offset: float, n: int) -> None:
    tensor = torch.rand(n, dtype=torch.float64) * std + offset * std
    PrivateRandom().add_gaussian_(tensor, std)
    step = lattice_step(std)
    assert step <= 2.0**-24 * std < 2 * step
    assert math.log2(step) == round(math.log2(step))
    assert torch.equal((tensor / step).round() * step, tensor)


@pytest.mark.parametrize("std", [1e-3, 0.7, 1.0, 30.0])
def test_added_noise_is_whole_steps_and_stands_for_no_less_than_the_asked_deviation(std: float) -> None:
    step = lattice_step(std)
    share = discrete_std(std / step)
    assert std / step <= gaussian_std(share) <= std / step * (1 + 1e-13)
    assert DiscreteGaussian(share).distance < 2.0**-170
    tensor = torch.zeros(2_000_000, dtype=torch.float64)
    PrivateRandom().add_gaussian_(tensor, std)
    steps = (tensor.numpy() / step).astype(np.int64)
    assert np.array_equal(steps * step, tensor.numpy())
    for modulus in (2, 3, 1024):  # down to the last digit
        assert stats.chisquare(np.bincount(steps % modulus)).pvalue > ALARM


def test_float32_release_of_a_usual_sum_stays_on_the_lattice() -> None:
    tensor = torch.randn(1000)
    PrivateRandom().add_gaussian_(tensor, 1.0)
    step = lattice_step(1.0)
    assert torch.equal((tensor.double() / step).round() * step, tensor.double())


def test_the_sum_survives_beneath_the_noise() -> None:
    tensor = torch.arange(12.0, dtype=torch.float64).view(3, 4)
    PrivateRandom().add_gaussian_(tensor, 1e-9)
    assert torch.allclose(tensor, torch.arange(12.0, dtype=torch.float64).view(3, 4), atol=1e-7)


@pytest.mark.parametrize("n", [1, 100_001])
def test_strided_tensors_and_parameters_are_changed_in_place(n: int) -> None:
    parameter = torch.nn.Parameter(torch.zeros(n, 2))
    view = parameter.data.t()[1]
    PrivateRandom().add_gaussian_(view, 1.0)
    assert torch.all(parameter[:, 0] == 0)
    assert (parameter[:, 1] != 0).float().mean() > 0.99  # zero lies on the lattice too
    PrivateRandom().add_gaussian_(parameter, 1.0)
    assert (parameter[:, 0] != 0).float().mean() > 0.99


def test_each_coordinate_has_its_own_noise_across_chunks() -> None:
    tensor = torch.zeros(300_000, dtype=torch.float64)
    PrivateRandom().add_gaussian_(tensor, 1.0)
    values = tensor.numpy()
    for lag in (1, 1 << 14, 1 << 15, 1 << 16):
        assert abs(np.mean(values[:-lag] * values[lag:])) < 6 / math.sqrt(values.size - lag)


def test_empty_and_scalar_tensors() -> None:
    PrivateRandom().add_gaussian_(torch.zeros(0), 1.0)
    scalar = torch.zeros(())
    PrivateRandom().add_gaussian_(scalar, 1.0)
    assert scalar != 0


def test_several_tensors_get_noise_of_their_own_and_none_is_changed_if_one_is_refused() -> None:
    sizes = (1, 3, 70_000, 0, 5, 200_001)
    tensors = [torch.zeros(n, dtype=torch.float64) for n in sizes]
    PrivateRandom().add_gaussian_(tensors, 2.0)
    values = torch.cat(tensors).numpy() / 2.0
    bound = stats.norm.isf(ALARM / 2)
    assert len(np.unique(values)) > 0.99 * sum(sizes)  # two may meet on the lattice
    assert abs(values.mean()) < bound / math.sqrt(values.size)
    assert abs(values.var() - 1) < bound * math.sqrt(2 / values.size)
    for lag in (1, 35_000, 1 << 15, 1 << 16, 70_000):
        assert abs(np.mean(values[:-lag] * values[lag:])) < bound / math.sqrt(values.size - lag)
    kept = torch.zeros(4)
    with pytest.raises(NoiseError):
        PrivateRandom().add_gaussian_([kept, torch.tensor([math.nan, 0.0])], 1.0)
    assert not kept.any()


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_share_the_coordinates_and_draw_apart(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    tensors = [torch.zeros(n, dtype=torch.float64) for n in (3, 150_000, 0, 1, 131_072, 99_999)]
    PrivateRandom().add_gaussian_(tensors, 1.0)
    values = torch.cat(tensors).numpy()
    bound = stats.norm.isf(ALARM / 2)
    assert len(np.unique(values)) > 0.99 * len(values)
    assert abs(values.mean()) < bound / math.sqrt(values.size)
    assert abs(values.var() - 1) < bound * math.sqrt(2 / values.size)


def test_other_devices_compute_the_same_distribution_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_library", lambda _device: torch)
    tensors = [torch.full((300_000,), 2.0), torch.zeros(7, 5, dtype=torch.bfloat16)]
    PrivateRandom().add_gaussian_(tensors, 0.5)
    values = (tensors[0].double().numpy() - 2.0) / 0.5
    assert stats.kstest(values, "norm").pvalue > ALARM
    assert (tensors[1] != 0).all()
    with pytest.raises(NoiseError, match="NaN"):
        PrivateRandom().add_gaussian_(torch.tensor([math.nan]), 1.0)


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, math.inf])
def test_a_senseless_deviation_is_refused(std: float) -> None:
    tensor = torch.zeros(4)
    with pytest.raises(NoiseError, match="standard deviation"):
        PrivateRandom().add_gaussian_(tensor, std)
    assert torch.equal(tensor, torch.zeros(4))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_sum_that_is_not_finite_is_refused(bad: float, dtype: torch.dtype) -> None:
    tensor = torch.zeros(1000, dtype=dtype)
    tensor[613] = bad
    with pytest.raises(NoiseError, match="NaN or infinity"):
        PrivateRandom().add_gaussian_(tensor, 1.0)
    assert tensor[0] == 0


@pytest.mark.parametrize("tensor", [torch.zeros(3, dtype=torch.int64), torch.zeros(3).to_sparse()])
def test_tensors_that_cannot_hold_noise_are_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(NoiseError, match="dense floating-point"):
        PrivateRandom().add_gaussian_(tensor, 1.0)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_a_senseless_probability_is_refused(p: float) -> None:
    with pytest.raises(NoiseError, match="probability"):
        PrivateRandom().bernoulli(3, p)


def test_negative_counts_are_refused() -> None:
    with pytest.raises(NoiseError, match="0 or more"):
        PrivateRandom().normal(-1)


def test_inflation_bounds_what_rounding_does_to_the_distance_of_neighbours() -> None:
    generator = np.random.default_rng(0)
    dimension, norm, std = 10_000, 0.01, 5000.0  # a coarse lattice, so that the bound bites
    step = lattice_step(std)
    for _ in range(20):
        difference = generator.standard_normal(dimension)
        difference *= norm / np.linalg.norm(difference)
        base = generator.standard_normal(dimension) * step
        distance = step * np.linalg.norm(np.rint((base + difference) / step) - np.rint(base / step))
        assert distance <= norm * sensitivity_inflation(std, norm, dimension)
    assert 1 < sensitivity_inflation(1.0, 1.0, 10**8) < 1.0007


@given(sigma=st.floats(0.1, 100), norm=st.floats(1e-3, 1e3), dimension=st.sampled_from([0, 1, 10**4, 10**9]))
def test_the_noise_makes_up_for_the_rounding_and_no_more(sigma: float, norm: float, dimension: int) -> None:
    std = noise_std(sigma, norm, dimension)
    assert std / (norm * sensitivity_inflation(std, norm, dimension)) >= sigma * (1 - 1e-15)
    assert sigma * norm <= std <= sigma * norm * (1 + 2.0**-23 * sigma * math.sqrt(dimension)) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("sigma", "norm", "dimension"), [(0.0, 1.0, 1), (1.0, 0.0, 1), (1.0, 1.0, -1), (1e5, 1.0, 10**9)]
)
def test_noise_that_cannot_make_up_for_the_rounding_is_refused(
    sigma: float, norm: float, dimension: int
) -> None:
    with pytest.raises(NoiseError):
        noise_std(sigma, norm, dimension)
