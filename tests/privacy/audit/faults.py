"""Code that does not do what it claims: every fault that the audit must find, planted in the real step.

Each entry takes a correct subject and returns the faulty one, with the same claim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from privacy.audit import PartLosses, Step, Subject, WholeBatch
from privacy.noise import PrivateRandom

MICROBATCH = 4


class TextbookStep:
    """DP-SGD one patient at a time by plain autograd, correct but for what a subclass spoils."""

    def __init__(
        self, subject: Subject, model: nn.Module, optimizer: torch.optim.Optimizer, noise: float
    ) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = optimizer
        self.clip_norm = subject.max_grad_norm
        self.std = noise * subject.max_grad_norm
        self.divisor = subject.expected_units

    def __call__(self, part_losses: PartLosses, units: torch.Tensor) -> None:
        sums = [torch.zeros_like(p) for p in self.parameters]
        if len(units):
            losses = part_losses(slice(None))
            for unit in units.unique():
                mean = losses[units == unit].mean()
                gradient = torch.autograd.grad(mean, self.parameters, retain_graph=True, allow_unused=True)
                filled = [
                    torch.zeros_like(p) if g is None else g
                    for p, g in zip(self.parameters, gradient, strict=True)
                ]
                for total, part in zip(sums, self.clip(filled), strict=True):
                    total += part
        for parameter, total in zip(self.parameters, sums, strict=True):
            PrivateRandom().add_gaussian_(total, self.std)
            parameter.grad = total / self.divisor
        self.optimizer.step()

    def clip(self, gradient: list[torch.Tensor]) -> list[torch.Tensor]:
        norm = torch.stack([g.norm() for g in gradient]).norm()
        return [g * (self.clip_norm / norm.clamp(min=self.clip_norm)) for g in gradient]


class ClipsEachLayer(TextbookStep):
    def clip(self, gradient: list[torch.Tensor]) -> list[torch.Tensor]:
        return [g * (self.clip_norm / g.norm().clamp(min=self.clip_norm)) for g in gradient]


def textbook(kind: type[TextbookStep]) -> Callable[[Subject], Subject]:
    def planted(subject: Subject) -> Subject:
        return replace(
            subject, make_step=lambda model, optimizer, noise: kind(subject, model, optimizer, noise)
        )

    return planted


def spoiled(spoil: Callable[[Any], Step | None]) -> Callable[[Subject], Subject]:
    """The real step after `spoil`, which changes it in place or returns another around it."""

    def planted(subject: Subject) -> Subject:
        def make_step(model: nn.Module, optimizer: torch.optim.Optimizer, noise: float) -> Step:
            step = subject.make_step(model, optimizer, noise)
            assert isinstance(step, WholeBatch)
            return spoil(step) or step

        return replace(subject, make_step=make_step)

    return planted


def noise_times(factor: float) -> Callable[[Subject], Subject]:
    def spoil(step: Any) -> None:
        step.private.optimizer.noise_multiplier *= factor

    return spoiled(spoil)


def _own_noise(draw: Callable[[torch.Tensor, int, int], torch.Tensor]) -> Callable[[Subject], Subject]:
    """Noise of the right size from `draw(tensor, index of the tensor, number of the step)`."""

    def spoil(step: Any) -> None:
        count = 0

        def add_noise() -> None:
            nonlocal count
            optimizer = step.private.optimizer
            for i, p in enumerate(optimizer.params):
                std = optimizer.noise_multiplier * optimizer.max_grad_norm
                p.grad = p.summed_grad + std * draw(p, i, count)
                p.summed_grad = None
            count += 1

        step.private.optimizer.add_noise = add_noise

    return spoiled(spoil)


def _drawn(tensor: torch.Tensor, seed: int | None) -> torch.Tensor:
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return torch.randn(tensor.shape, generator=generator)


one_tensor_without_noise = _own_noise(
    lambda tensor, i, _: torch.zeros_like(tensor) if i == 1 else _drawn(tensor, None)
)
same_noise_each_step = _own_noise(lambda tensor, i, _: _drawn(tensor, i))
same_noise_each_run = _own_noise(lambda tensor, i, count: _drawn(tensor, 1000 * count + i))
noise_from_the_public_seed = _own_noise(lambda tensor, *_: torch.randn(tensor.shape))


def _no_clipping(step: Any) -> None:
    clipped = step.private._engine.clipped
    step.private._engine.clipped = lambda losses, units, *_: clipped(losses, units, torch.ones_like)


def _regrouped(units_of: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Subject], Subject]:
    return spoiled(lambda step: lambda losses, units: step(losses, units_of(units)))


def _divide_by_the_batch(step: Any) -> Step:
    def spoilt(losses: PartLosses, units: torch.Tensor) -> None:
        step.private.optimizer.expected_batch_size = max(1, len(units.unique()))
        step(losses, units)

    return spoilt


def _skip_empty(step: Any) -> Step:
    return lambda losses, units: step(losses, units) if len(units) else None


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


FAULTS: dict[str, tuple[Callable[[Subject], Subject], set[str]]] = {
    "no noise": (noise_times(0.0), {"C1", "C2", "E3"}),
    "a tenth of the noise": (noise_times(0.1), {"C1", "C2", "E3"}),
    "0.95 of the noise": (noise_times(0.95), {"C1"}),
    "noise divided by sqrt(microbatches)": (noise_times(MICROBATCH**-0.5), {"C1", "C2", "E3"}),
    "one tensor without noise": (one_tensor_without_noise, {"C2"}),
    "the same noise each step": (same_noise_each_step, {"C1", "C6"}),
    "the same noise each run": (same_noise_each_run, {"C6"}),
    "noise from the public seed": (noise_from_the_public_seed, {"C1", "C6"}),
    "no clipping": (spoiled(_no_clipping), {"C3", "C7", "E3"}),
    "clipping each layer": (textbook(ClipsEachLayer), {"C7"}),
    "clipping the mean of a microbatch": (
        _regrouped(lambda units: torch.arange(len(units)) // MICROBATCH),
        {"C7"},
    ),
    "clipping a patient's records separately": (_regrouped(lambda units: torch.arange(len(units))), {"C7"}),
    "division by the actual batch": (spoiled(_divide_by_the_batch), {"C7"}),
    "no step for an empty batch": (spoiled(_skip_empty), {"C1"}),
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
}
