"""Steps that do not do what they claim: the real one, spoilt in one place each, or a textbook one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from privacy.audit import PartLosses, Step, Subject, WholeBatch
from privacy.errors import UnsupportedModel
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
        """Scaled to the bound; nothing, of a gradient that is not finite."""
        norm = torch.stack([g.double().norm() for g in gradient]).norm()
        if not bool(torch.isfinite(norm)):
            return [torch.zeros_like(g) for g in gradient]
        factor = self.clip_norm / norm.clamp(min=self.clip_norm)
        return [(g.double() * factor).to(g.dtype) for g in gradient]


class ClipsEachLayer(TextbookStep):
    def clip(self, gradient: list[torch.Tensor]) -> list[torch.Tensor]:
        return [g * (self.clip_norm / g.norm().clamp(min=self.clip_norm)) for g in gradient]


class Wrapped:
    """A step that does something else around the honest one, and can be tried as that can."""

    def __init__(self, step: Any, call: Callable[[PartLosses, torch.Tensor], None]) -> None:
        self.try_on = step.try_on
        self._call = call

    def __call__(self, losses: PartLosses, units: torch.Tensor) -> None:
        self._call(losses, units)


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


def own_noise(draw: Callable[[torch.Tensor, int, int], torch.Tensor]) -> Callable[[Subject], Subject]:
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


def drawn(tensor: torch.Tensor, seed: int | None) -> torch.Tensor:
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return torch.randn(tensor.shape, generator=generator)


one_tensor_without_noise = own_noise(
    lambda tensor, i, _: torch.zeros_like(tensor) if i == 1 else drawn(tensor, None)
)


same_noise_each_step = own_noise(lambda tensor, i, _: drawn(tensor, i))


same_noise_each_run = own_noise(lambda tensor, i, count: drawn(tensor, 1000 * count + i))


noise_from_the_public_seed = own_noise(lambda tensor, *_: torch.randn(tensor.shape))


def no_clipping(step: Any) -> None:
    clipped = step.private._engine.clipped
    step.private._engine.clipped = lambda losses, units, *_: clipped(losses, units, torch.ones_like)


def regrouped(units_of: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Subject], Subject]:
    return spoiled(lambda step: Wrapped(step, lambda losses, units: step(losses, units_of(units))))


def divide_by_the_batch(step: Any) -> Step:
    def spoilt(losses: PartLosses, units: torch.Tensor) -> None:
        step.private.optimizer.expected_batch_size = max(1, len(units.unique()))
        step(losses, units)

    return Wrapped(step, spoilt)


def skip_empty(step: Any) -> Step:
    return Wrapped(step, lambda losses, units: step(losses, units) if len(units) else None)


def secret_seed() -> int:
    return int(PrivateRandom().integers(1, 1 << 31)[0])


def few_numbers(subject: Subject) -> Subject:
    """64 numbers of noise, repeated over all coordinates of all tensors; new ones each step."""
    numbers: dict[int, np.ndarray] = {}
    start = 0

    def draw(tensor: torch.Tensor, i: int, count: int) -> torch.Tensor:
        nonlocal start
        if i == 0:
            numbers[0], start = PrivateRandom().normal(64), 0
        places = (start + np.arange(tensor.numel())) % 64
        start += tensor.numel()
        return torch.from_numpy(numbers[0][places]).to(tensor).view(tensor.shape)

    return own_noise(draw)(subject)


def seeded_again(every: int) -> Callable[[Subject], Subject]:
    def planted(subject: Subject) -> Subject:
        seed = secret_seed()  # nobody knows it, but it is used again
        return own_noise(lambda tensor, i, count: drawn(tensor, seed + 1000 * (count % every) + i))(subject)

    return planted


def shaped(shape: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Subject], Subject]:
    """Noise of variance 1 from uniforms in [0, 1)."""

    def draw(tensor: torch.Tensor, i: int, count: int) -> torch.Tensor:
        generator = torch.Generator()
        generator.seed()
        return shape(torch.rand(tensor.shape, generator=generator))

    return own_noise(draw)


def of_half_sizes(tensor: torch.Tensor, i: int, count: int) -> torch.Tensor:
    """Each number twice, with a sign of its own: uncorrelated, and not independent."""
    half = drawn(tensor.reshape(-1)[: (tensor.numel() + 1) // 2], None)
    signs = drawn(tensor.reshape(-1), None).sign()
    return (half.repeat(2)[: tensor.numel()] * signs).view(tensor.shape)


def noise_until(last: int) -> Callable[[Subject], Subject]:
    def plant(subject: Subject) -> Subject:
        return own_noise(lambda tensor, i, count: drawn(tensor, None) * (count < last))(subject)

    return plant


def tensor_unclipped(when: Callable[[int], bool], tensor: int) -> Callable[[Subject], Subject]:
    def spoil(step: Any) -> None:
        engine, count = step.private._engine, 0
        clipped = engine.clipped

        def spoilt(losses: Any, units: Any, *rest: Any) -> Any:
            nonlocal count
            count += 1
            honest = clipped(losses, units, *rest)
            if when(count):
                name = list(honest.sums)[tensor]
                honest.sums[name] = clipped(losses, units, torch.ones_like).sums[name]
            return honest

        engine.clipped = spoilt

    return spoiled(spoil)


def leaks(keep: Callable[[Any, torch.Tensor], None]) -> Callable[[Subject], Subject]:
    """`keep(optimizer, raw sum of its largest parameter)` is called before the noise is added."""

    def spoil(step: Any) -> None:
        optimizer = step.private.optimizer
        honest = optimizer.add_noise

        def add_noise() -> None:
            largest = max(optimizer.params, key=lambda p: p.numel())
            keep(optimizer, largest.summed_grad.clone())
            honest()

        optimizer.add_noise = add_noise

    return spoiled(spoil)


def as_momentum(optimizer: Any, raw: torch.Tensor) -> None:
    largest = max(optimizer.params, key=lambda p: p.numel())
    state = optimizer.original_optimizer.state[largest]
    state["average"] = 0.9 * state.get("average", torch.zeros_like(raw)) + 0.1 * raw


def as_second_moment(optimizer: Any, raw: torch.Tensor) -> None:
    largest = max(optimizer.params, key=lambda p: p.numel())
    optimizer.original_optimizer.state[largest]["square"] = raw**2 / 100


def in_a_list(optimizer: Any, raw: torch.Tensor) -> None:
    optimizer.log = [("debug", {"sum": np.concatenate([np.zeros(7), raw.flatten().numpy() / 32])})]


def in_a_file(subject: Subject) -> Subject:
    folder = Path(tempfile.mkdtemp(prefix="mmmed-fault-"))
    planted = leaks(lambda _, raw: torch.save(raw.half().float() * 3, folder / "last.pt"))(subject)
    return replace(planted, folders=(folder,))


def no_noise_for(patients: Callable[[int], bool]) -> Callable[[Subject], Subject]:
    def spoil(step: Any) -> Step:
        optimizer = step.private.optimizer
        honest = optimizer.noise_multiplier

        def spoilt(losses: PartLosses, units: torch.Tensor) -> None:
            optimizer.noise_multiplier = honest * (1e-6 if patients(len(units.unique())) else 1)
            step(losses, units)

        return Wrapped(step, spoilt)

    return spoiled(spoil)


def raises_when(when: Callable[[torch.Tensor, int], bool]) -> Callable[[Subject], Subject]:
    """A step that refuses a batch for its `losses`, at its `count`-th."""

    def spoil(step: Any) -> Step:
        count = 0

        def spoilt(losses: PartLosses, units: torch.Tensor) -> None:
            nonlocal count
            count += 1
            if len(units) and when(losses(slice(None)).detach(), count):
                raise UnsupportedModel("this record's loss is out of the usual")
            step(losses, units)

        return Wrapped(step, spoilt)

    return spoiled(spoil)


def skips_what_is_not_finite(step: Any) -> Step:
    def spoilt(losses: PartLosses, units: torch.Tensor) -> None:
        if not len(units) or bool(torch.isfinite(losses(slice(None))).all()):
            step(losses, units)

    return Wrapped(step, spoilt)
