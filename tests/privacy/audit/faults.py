"""Code that does not do what it claims: every fault that the audit must find, planted in the real step.

Each entry takes a correct subject and returns the faulty one, with the same claim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from privacy.audit import Batch, Batches, Subject
from privacy.noise import PrivateRandom
from tests.privacy.audit.step_faults import (
    MICROBATCH,
    ClipsEachLayer,
    TextbookStep,
    as_momentum,
    as_second_moment,
    divide_by_the_batch,
    few_numbers,
    in_a_file,
    in_a_list,
    leaks,
    no_clipping,
    no_noise_for,
    noise_from_the_public_seed,
    noise_times,
    noise_until,
    of_half_sizes,
    one_tensor_without_noise,
    own_noise,
    raises_when,
    regrouped,
    same_noise_each_run,
    same_noise_each_step,
    seeded_again,
    shaped,
    skip_empty,
    skips_what_is_not_finite,
    spoiled,
    tensor_unclipped,
    textbook,
)


def _sampled(draw: Callable[[int, float, int], Iterator[np.ndarray]]) -> Callable[[Subject], Subject]:
    return lambda subject: replace(
        subject, make_sampler=lambda n, steps: draw(n, subject.claim.sampling_rate, steps)
    )


def _shuffled(n: int, rate: float, steps: int) -> Iterator[np.ndarray]:
    generator, order, size = np.random.default_rng(), np.zeros(0, dtype=np.int64), max(1, round(rate * n))
    for _ in range(steps):
        if len(order) < size:
            order = generator.permutation(n)
        yield order[:size]
        order = order[size:]


def _fixed_size(n: int, rate: float, steps: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng()
    for _ in range(steps):
        yield generator.choice(n, max(1, round(rate * n)), replace=False)


def _seeded_masks(n: int, rate: float, steps: int) -> Iterator[np.ndarray]:
    for _ in range(steps):
        yield np.flatnonzero((torch.rand(n) < rate).numpy())


def _too_often(n: int, rate: float, steps: int) -> Iterator[np.ndarray]:
    for _ in range(steps):
        yield np.flatnonzero(PrivateRandom().bernoulli(n, min(1.0, 1.1 * rate)))


def with_batch_norm(subject: Subject) -> Subject:
    """BatchNorm under a step that does not refuse it."""

    def make_model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 2),
        )

    def losses(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(len(subject.units), 1, 8, 8, generator=generator)
        images[0] *= 20
        return F.cross_entropy(model(images[rows]), subject.units[rows] % 2, reduction="none")

    return textbook(TextbookStep)(replace(subject, make_model=make_model, losses=losses))


def _drawn_as(
    spoil: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
) -> Callable[[Subject], Subject]:
    return lambda subject: replace(subject, draw=lambda drawn: spoil(*subject.draw(drawn)))


def _foreign_optimizer(subject: Subject) -> Subject:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD([*model.parameters(), nn.Parameter(torch.zeros(1))], lr=0.1)

    return replace(subject, make_optimizer=make)


def _idle_optimizer(subject: Subject) -> Subject:
    return replace(
        subject, make_optimizer=lambda model: torch.optim.SGD(list(model.parameters())[1:], lr=0.1)
    )


def _releases_buffers(subject: Subject) -> Subject:
    return replace(subject, released=lambda model: [*dict(model.named_parameters()), "running_mean"])


def _for_steps(steps: int, plant: Callable[[Subject], Subject]) -> Callable[[Subject], Subject]:
    """The fault in a run of so many claimed steps."""
    return lambda subject: plant(replace(subject, claim=replace(subject.claim, steps=steps)))


def _in_pairs(n: int, rate: float, steps: int) -> Iterator[np.ndarray]:
    for _ in range(steps):
        yield np.flatnonzero(np.repeat(PrivateRandom().bernoulli((n + 1) // 2, rate), 2)[:n])


def _stays(n: int, rate: float, steps: int) -> Iterator[np.ndarray]:
    """Each is drawn at the claimed rate, and for two steps in a row."""
    for step in range(steps):
        if step % 2 == 0:
            drawn = np.flatnonzero(PrivateRandom().bernoulli(n, rate))
        yield drawn


def _never_empty(n: int, rate: float, steps: int) -> Iterator[np.ndarray]:
    for _ in range(steps):
        drawn = np.flatnonzero(PrivateRandom().bernoulli(n, rate))
        yield drawn if len(drawn) else PrivateRandom().integers(1, n)


def _shared_views(subject: Subject) -> Subject:
    """Every record's loss is scaled per view, drawn from one stream for all."""

    def open_round(present: np.ndarray) -> Batches:
        stream = np.random.default_rng(0)

        def batch(drawn: np.ndarray) -> Batch:
            rows, units = subject.draw(drawn)
            signs = torch.from_numpy(stream.choice([-1.0, 1.0], len(rows)))
            return lambda model, part: subject.losses(model, rows[part]) * signs[part], units

        return batch

    return replace(subject, open_round=open_round)


def _shared_choice(subject: Subject) -> Subject:
    """One record of each patient, chosen from one stream for all."""
    records = [torch.nonzero(subject.units == unit).flatten() for unit in range(int(subject.units.max()) + 1)]

    def open_round(present: np.ndarray) -> Batches:
        stream = np.random.default_rng(0)

        def batch(drawn: np.ndarray) -> Batch:
            one = [records[unit][int(stream.integers(len(records[unit])))] for unit in drawn]
            rows = torch.tensor(one, dtype=torch.int64)
            return lambda model, part: subject.losses(model, rows[part]), torch.arange(len(rows))

        return batch

    return replace(subject, open_round=open_round)


FAULTS: dict[str, tuple[Callable[[Subject], Subject], set[str]]] = {
    "no noise": (noise_times(0.0), {"C1", "C2", "E3"}),
    "a tenth of the noise": (noise_times(0.1), {"C1", "C2", "E3"}),
    "0.95 of the noise": (noise_times(0.95), {"C1"}),
    "noise divided by sqrt(microbatches)": (noise_times(MICROBATCH**-0.5), {"C1", "C2", "E3"}),
    "one tensor without noise": (one_tensor_without_noise, {"C2"}),
    "the same noise each step": (same_noise_each_step, {"C1", "C6"}),
    "the same noise each run": (same_noise_each_run, {"C6"}),
    "noise from the public seed": (noise_from_the_public_seed, {"C1", "C6"}),
    "no clipping": (spoiled(no_clipping), {"C3", "C7", "E3"}),
    "clipping each layer": (textbook(ClipsEachLayer), {"C7"}),
    "clipping the mean of a microbatch": (
        regrouped(lambda units: torch.arange(len(units)) // MICROBATCH),
        {"C7"},
    ),
    "clipping a patient's records separately": (regrouped(lambda units: torch.arange(len(units))), {"C7"}),
    "division by the actual batch": (spoiled(divide_by_the_batch), {"C7"}),
    "no step for an empty batch": (spoiled(skip_empty), {"C1"}),
    "shuffled batches": (_sampled(_shuffled), {"C5"}),
    "batches of a fixed size": (_sampled(_fixed_size), {"C5"}),
    "batches from the public seed": (_sampled(_seeded_masks), {"S3"}),
    "a higher sampling rate": (_sampled(_too_often), {"C4"}),
    "a batch that swaps two patients": (_drawn_as(lambda rows, units: (rows, units.flip(0))), {"S7"}),
    "a batch with a record twice": (
        _drawn_as(lambda rows, units: (rows.repeat(2), units.repeat(2))),
        {"S7"},
    ),
    "a batch without the last record": (_drawn_as(lambda rows, units: (rows[:-1], units[:-1])), {"S7"}),
    "an optimiser with a foreign tensor": (_foreign_optimizer, {"S5"}),
    "an optimiser without the first tensor": (_idle_optimizer, {"S5"}),
    "a buffer that leaves the site": (_releases_buffers, {"S6"}),
    "BatchNorm": (with_batch_norm, {"S1", "S2", "C7"}),
    "64 noise numbers, repeated over all coordinates": (few_numbers, {"C6"}),
    "every noise number twice, with random signs": (own_noise(of_half_sizes), {"C6"}),
    "uniform noise": (shaped(lambda u: (2 * u - 1) * 3**0.5), {"C8"}),
    "two-point noise": (shaped(lambda u: (u < 0.5) * 2.0 - 1.0), {"C8"}),
    "Laplace noise": (
        shaped(lambda u: -(u - 0.5).sign() * torch.log1p(-2 * (u - 0.5).abs() + 1e-7) / 2**0.5),
        {"C8"},
    ),
    "a generator seeded again every 20 steps": (seeded_again(20), {"C6"}),
    "a generator seeded again every 64 steps": (seeded_again(64), {"C6"}),
    "noise that stops after 600 steps": (_for_steps(700, noise_until(600)), {"C9"}),
    "no noise when one patient was drawn": (no_noise_for(lambda n: n == 1), {"C9"}),
    "no noise when five patients were drawn": (no_noise_for(lambda n: n == 5), {"C9"}),
    "a tensor unclipped every 50th step": (tensor_unclipped(lambda n: n % 50 == 0, 0), {"C10"}),
    "a tensor unclipped after step 300": (
        _for_steps(400, tensor_unclipped(lambda n: n > 300, -1)),
        {"C10"},
    ),
    "the raw sum in the optimiser's state": (leaks(as_momentum), {"S8"}),
    "the raw sum's square in the optimiser's state": (leaks(as_second_moment), {"S8"}),
    "the raw sum in a log": (leaks(in_a_list), {"S8"}),
    "the raw sum in a file": (in_a_file, {"S8"}),
    "patients drawn in pairs": (_sampled(_in_pairs), {"C5"}),
    "patients drawn for two steps in a row": (_sampled(_stays), {"C5"}),
    "no empty batches": (_sampled(_never_empty), {"C5"}),
    "views drawn from one stream for all": (_shared_views, {"C11"}),
    "records chosen from one stream for all": (_shared_choice, {"C11"}),
    "a step that refuses a record's loss": (raises_when(lambda losses, _: bool((losses > 50).any())), {"S9"}),
    "a step that refuses a record's loss after the first batch": (
        raises_when(lambda losses, count: count > 1 and bool(losses.isnan().any())),
        {"S9"},
    ),
    "a step that skips a record that is not finite": (spoiled(skips_what_is_not_finite), {"S9"}),
}
