"""What is random in a private step, or in a data set it reads, is drawn from states that nobody knows."""

# ruff: noqa: NPY002 (numpy's global generator is what careless transforms use)

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

from privacy.batches import UnitLoader
from privacy.dpsgd import PrivateStep
from privacy.noise import PrivateRandom
from privacy.sampling import PoissonSampler
from privacy.unseeded import secret_state, unseeded
from tests.oracles.clipping import clipped_sum

R, C = 12, 0.5
X = torch.randn(R, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(R) % 3
UNITS = torch.arange(R) // 2


def seed_everything() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


def draws() -> list[float]:
    return [
        float(torch.rand(())),
        np.random.rand(),
        random.random(),
        float(torch.randn(1)),
        np.random.randn(),
    ]


def test_the_states_within_are_new_each_time_and_those_outside_go_on() -> None:
    seed_everything()
    expected = [draws(), draws()]
    seed_everything()
    seen = [draws()]
    with unseeded() as renew:
        inside = [draws()]
        renew()
        inside.append(draws())
    seen.append(draws())
    assert seen == expected
    with pytest.raises(ZeroDivisionError), unseeded():
        inside.append(draws())
        raise ZeroDivisionError
    seed_everything()
    with unseeded():
        inside.append(draws())
    for one in zip(*inside, *expected, strict=True):
        assert len(set(one)) == len(one)


def test_every_word_of_torchs_state_is_fresh() -> None:
    """torch draws what the Mersenne twister gives from the words; a seed of torch's own would give 32 bits' worth."""
    ours = torch.Generator()
    ours.set_state(secret_state())
    words = ours.get_state().numpy()[24 : 24 + 8 * 624].view(np.uint64)
    theirs = np.random.MT19937()
    theirs.state = {"bit_generator": "MT19937", "state": {"key": words.astype(np.uint32), "pos": 624}}
    drawn = torch.empty(2000, dtype=torch.int32).random_(generator=ours)
    assert np.array_equal(drawn.numpy(), theirs.random_raw(2000) & 0x7FFFFFFF)
    other = secret_state().numpy()[24 : 24 + 8 * 624].view(np.uint64)
    assert (words == other).sum() < 3 and (words >> np.uint64(32) == 0).all()
    ones = np.unpackbits(words.astype(np.uint32).view(np.uint8)).mean()
    assert abs(ones - 0.5) < 6 * 0.5 / np.sqrt(32 * 624)


def private_step(model: nn.Module, engine: str = "bookkeeping") -> PrivateStep:
    return PrivateStep(
        model,
        torch.optim.SGD(model.parameters(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=C,
        expected_units=1.0,
        engine=engine,  # type: ignore[arg-type]
        allow_noiseless=True,
    )


@pytest.mark.parametrize("engine", ["bookkeeping", "hooks", "ghost"])
def test_no_seed_reaches_dropout_in_a_private_step(engine: str) -> None:
    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(6, 40), nn.Dropout(0.5), nn.Linear(40, 3))
    moved = []
    for _ in range(2):
        model = copy.deepcopy(start)
        step = private_step(model, engine)
        for _ in range(2):
            model.load_state_dict(start.state_dict())
            seed_everything()
            step(lambda m=model: F.cross_entropy(m(X), Y, reduction="none"), torch.arange(R))  # type: ignore[misc]
            moved.append(model[0].weight.detach().clone())
    for i, one in enumerate(moved):
        assert all(float((one - other).norm()) > 0.01 * C for other in moved[:i])


class Remembering(nn.Module):
    """Dropout that keeps its masks, a row a record."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = F.dropout(torch.ones_like(x), 0.4)
        self.masks.append(mask)
        return x * mask


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.first, self.last, self.drop = nn.Linear(6, 8), nn.Linear(8, 3), Remembering()
        self.reentrant = reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        block = lambda h: self.last(self.drop(torch.tanh(h)))  # noqa: E731
        h = self.first(x)
        if self.reentrant is None:
            return block(h)  # type: ignore[no-any-return]
        return checkpoint(block, h, use_reentrant=self.reentrant)  # type: ignore[no-any-return]


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_a_block_that_is_computed_again_repeats_its_secret_dropout(reentrant: bool | None) -> None:
    torch.manual_seed(0)
    model = Checkpointed(reentrant)
    before = copy.deepcopy(model)
    step = private_step(model)
    for _ in range(2):  # the first batch is also tried out
        model.load_state_dict(before.state_dict())
        model.drop.masks.clear()
        step(lambda: F.cross_entropy(model(X), Y, reduction="none"), UNITS)
    mask = model.drop.masks[-1]
    assert len(model.drop.masks) == (1 if reentrant is None else 2)
    assert all(torch.equal(mask, one) for one in model.drop.masks)

    def record_loss(m: nn.Module, r: int) -> torch.Tensor:
        hidden = torch.tanh(m.first(X[r : r + 1].double())) * mask[r : r + 1].double()
        return F.cross_entropy(m.last(hidden), Y[r : r + 1])

    expected = clipped_sum(before, record_loss, UNITS, C).sums
    for name, parameter in model.named_parameters():
        found = (before.get_parameter(name) - parameter).detach().double()
        torch.testing.assert_close(found, expected[name], rtol=0, atol=1e-5)


class Random(Dataset[torch.Tensor]):
    """Each record is its number, and what three careless transforms draw. One record's sets a seed."""

    def __len__(self) -> int:
        return R

    def __getitem__(self, row: int) -> torch.Tensor:
        if row == 3:
            seed_everything()
        return torch.tensor([float(row), *draws()], dtype=torch.float64)


def jittered(records: list[torch.Tensor]) -> torch.Tensor:
    batch = torch.stack(records)
    return torch.cat([batch, torch.full((len(batch), 1), np.random.rand(), dtype=torch.float64)], 1)


def seed_worker(number: int) -> None:
    seed_everything()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_sets_random_transforms_are_secret(workers: int) -> None:
    passes = []
    for _ in range(2):
        seed_everything()
        loader = DataLoader(
            Random(),
            num_workers=workers,
            collate_fn=jittered,
            worker_init_fn=seed_worker if workers else None,
        )
        sampler = PoissonSampler(R, 1.0, 2, PrivateRandom())
        units = UnitLoader(loader, np.arange(R), sampler, records_per_unit=None, max_records=5)
        parts = []
        for part in units:
            units.take()
            parts.append(part)
        after = draws()
        seed_everything()
        assert after == draws()  # nothing was taken from the public states
        assert [len(part) for part in parts] == [5, 5, 2] * 2
        passes.append(torch.cat(parts))
    together = torch.cat(passes)
    assert (together[:R, 0] == torch.arange(R)).all()
    seeded = together[:, 0] == 3
    for column in together[~seeded, 1:6].T:
        assert len(column.unique()) == len(column)
    assert len(together[seeded, 1:6].unique(dim=0)) == 1  # its own doing, and its alone
    assert len(together[:, 6].unique()) == 2 * 2 * 3  # one a part


def test_which_records_of_a_unit_are_used_follows_no_seed() -> None:
    chosen = []
    for _ in range(2):
        seed_everything()
        units = UnitLoader(
            DataLoader(torch.arange(400)),  # type: ignore[arg-type]
            np.arange(400) // 20,
            PoissonSampler(20, 1.0, 1, PrivateRandom()),
            records_per_unit=5,
            max_records=None,
        )
        for batch in units:
            units.take()
            assert torch.equal(torch.bincount(batch // 20), torch.full((20,), 5))
            assert len(batch.unique()) == 100
            chosen.append(batch)
    assert not torch.equal(*chosen)
