"""Code that does not do what it claims: every fault that the audit must find, planted in the real step.

Each entry takes a correct subject and returns the faulty one, with the same claim.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from privacy.audit import Batch, Batches, PartLosses, Step, Subject, WholeBatch
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


def _secret_seed() -> int:
    return int(PrivateRandom().integers(1, 1 << 31)[0])


def _few_numbers(subject: Subject) -> Subject:
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

    return _own_noise(draw)(subject)


def _seeded_again(every: int) -> Callable[[Subject], Subject]:
    def planted(subject: Subject) -> Subject:
        seed = _secret_seed()  # nobody knows it, but it is used again
        return _own_noise(lambda tensor, i, count: _drawn(tensor, seed + 1000 * (count % every) + i))(subject)

    return planted


def _shaped(shape: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Subject], Subject]:
    """Noise of variance 1 from uniforms in [0, 1)."""

    def draw(tensor: torch.Tensor, i: int, count: int) -> torch.Tensor:
        generator = torch.Generator()
        generator.seed()
        return shape(torch.rand(tensor.shape, generator=generator))

    return _own_noise(draw)


def _of_half_sizes(tensor: torch.Tensor, i: int, count: int) -> torch.Tensor:
    """Each number twice, with a sign of its own: uncorrelated, and not independent."""
    half = _drawn(tensor.reshape(-1)[: (tensor.numel() + 1) // 2], None)
    signs = _drawn(tensor.reshape(-1), None).sign()
    return (half.repeat(2)[: tensor.numel()] * signs).view(tensor.shape)


def _for_steps(steps: int, plant: Callable[[Subject], Subject]) -> Callable[[Subject], Subject]:
    """The fault in a run of so many claimed steps."""
    return lambda subject: plant(replace(subject, claim=replace(subject.claim, steps=steps)))


def _noise_until(last: int) -> Callable[[Subject], Subject]:
    def plant(subject: Subject) -> Subject:
        return _own_noise(lambda tensor, i, count: _drawn(tensor, None) * (count < last))(subject)

    return plant


def _tensor_unclipped(when: Callable[[int], bool], tensor: int) -> Callable[[Subject], Subject]:
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


def _leaks(keep: Callable[[Any, torch.Tensor], None]) -> Callable[[Subject], Subject]:
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


def _as_momentum(optimizer: Any, raw: torch.Tensor) -> None:
    largest = max(optimizer.params, key=lambda p: p.numel())
    state = optimizer.original_optimizer.state[largest]
    state["average"] = 0.9 * state.get("average", torch.zeros_like(raw)) + 0.1 * raw


def _as_second_moment(optimizer: Any, raw: torch.Tensor) -> None:
    largest = max(optimizer.params, key=lambda p: p.numel())
    optimizer.original_optimizer.state[largest]["square"] = raw**2 / 100


def _in_a_list(optimizer: Any, raw: torch.Tensor) -> None:
    optimizer.log = [("debug", {"sum": np.concatenate([np.zeros(7), raw.flatten().numpy() / 32])})]


def _in_a_file(subject: Subject) -> Subject:
    folder = Path(tempfile.mkdtemp(prefix="mmmed-fault-"))
    planted = _leaks(lambda _, raw: torch.save(raw.half().float() * 3, folder / "last.pt"))(subject)
    return replace(planted, folders=(folder,))


def _no_noise_for(patients: Callable[[int], bool]) -> Callable[[Subject], Subject]:
    def spoil(step: Any) -> Step:
        optimizer = step.private.optimizer
        honest = optimizer.noise_multiplier

        def spoilt(losses: PartLosses, units: torch.Tensor) -> None:
            optimizer.noise_multiplier = honest * (1e-6 if patients(len(units.unique())) else 1)
            step(losses, units)

        return spoilt

    return spoiled(spoil)


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


def _raises(when: Callable[[torch.Tensor, int], bool]) -> Callable[[Subject], Subject]:
    """A step that refuses a batch for its `losses`, at its `count`-th."""

    def spoil(step: Any) -> Step:
        count = 0

        class Refusing:
            try_on = staticmethod(step.try_on)

            def __call__(self, losses: PartLosses, units: torch.Tensor) -> None:
                nonlocal count
                count += 1
                if len(units) and when(losses(slice(None)).detach(), count):
                    raise UnsupportedModel("this record's loss is out of the usual")
                step(losses, units)

        return Refusing()

    return spoiled(spoil)


def _skips_what_is_not_finite(step: Any) -> Step:
    class Skipping:
        try_on = staticmethod(step.try_on)

        def __call__(self, losses: PartLosses, units: torch.Tensor) -> None:
            if not len(units) or bool(torch.isfinite(losses(slice(None))).all()):
                step(losses, units)

    return Skipping()


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
    "64 noise numbers, repeated over all coordinates": (_few_numbers, {"C6"}),
    "every noise number twice, with random signs": (_own_noise(_of_half_sizes), {"C6"}),
    "uniform noise": (_shaped(lambda u: (2 * u - 1) * 3**0.5), {"C8"}),
    "two-point noise": (_shaped(lambda u: (u < 0.5) * 2.0 - 1.0), {"C8"}),
    "Laplace noise": (
        _shaped(lambda u: -(u - 0.5).sign() * torch.log1p(-2 * (u - 0.5).abs() + 1e-7) / 2**0.5),
        {"C8"},
    ),
    "a generator seeded again every 20 steps": (_seeded_again(20), {"C6"}),
    "a generator seeded again every 64 steps": (_seeded_again(64), {"C6"}),
    "noise that stops after 600 steps": (_for_steps(700, _noise_until(600)), {"C9"}),
    "no noise when one patient was drawn": (_no_noise_for(lambda n: n == 1), {"C9"}),
    "no noise when five patients were drawn": (_no_noise_for(lambda n: n == 5), {"C9"}),
    "a tensor unclipped every 50th step": (_tensor_unclipped(lambda n: n % 50 == 0, 0), {"C10"}),
    "a tensor unclipped after step 300": (
        _for_steps(400, _tensor_unclipped(lambda n: n > 300, -1)),
        {"C10"},
    ),
    "the raw sum in the optimiser's state": (_leaks(_as_momentum), {"S8"}),
    "the raw sum's square in the optimiser's state": (_leaks(_as_second_moment), {"S8"}),
    "the raw sum in a log": (_leaks(_in_a_list), {"S8"}),
    "the raw sum in a file": (_in_a_file, {"S8"}),
    "patients drawn in pairs": (_sampled(_in_pairs), {"C5"}),
    "patients drawn for two steps in a row": (_sampled(_stays), {"C5"}),
    "no empty batches": (_sampled(_never_empty), {"C5"}),
    "views drawn from one stream for all": (_shared_views, {"C11"}),
    "records chosen from one stream for all": (_shared_choice, {"C11"}),
    "a step that refuses a record's loss": (_raises(lambda losses, _: bool((losses > 50).any())), {"S9"}),
    "a step that refuses a record's loss after the first batch": (
        _raises(lambda losses, count: count > 1 and bool(losses.isnan().any())),
        {"S9"},
    ),
    "a step that skips a record that is not finite": (spoiled(_skips_what_is_not_finite), {"S9"}),
}
