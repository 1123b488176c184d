"""C1, C2, C6: the noise that the step adds, measured on the user's own model.

The same batch is released many times by a model that does not move, with every public random state set alike:
what differs between releases is noise, and nothing else. Empty batches release noise alone.
"""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import nn

from privacy.audit.releases import Recorder, rows_of
from privacy.audit.result import Check
from privacy.audit.subject import Step, Subject, seeded
from privacy.clipping.validate import trainable

_KEPT_PER_TENSOR = 10_000  # coordinates; more add nothing but memory
_LAGS = (1, 2, 4, 8)
_REPEATS = (4 * max(_LAGS), 256)  # fewest and most


@dataclass(frozen=True, eq=False)
class NoiseSample:
    """Repeated releases, float64 [repeats, coordinates], in units of the claimed noise standard deviation.

    Attributes:
        batch: of one batch of two units.
        empty: of an empty batch, by the same step.
        again: of an empty batch, by a second step from the same public random state.
        tensors: name and columns of each parameter tensor.
    """

    batch: np.ndarray
    empty: np.ndarray
    again: np.ndarray
    tensors: dict[str, slice]


def sample_noise(subject: Subject, values: int) -> NoiseSample:
    """Release until each kind has at least `values` numbers (within 32 to 256 releases)."""
    model = subject.make_model()
    watch = _watched(model)
    sizes = [len(kept) for kept in watch.values()]
    ends = list(itertools.accumulate(sizes))
    repeats = min(max(math.ceil(values / ends[-1]), _REPEATS[0]), _REPEATS[1])
    rows = torch.cat(rows_of(subject)[:2])
    nothing = torch.zeros(0, dtype=torch.int64)

    def releases(model: nn.Module, kinds: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
        recorder = Recorder(model, watch=watch)
        step = subject.make_step(model, recorder, subject.claim.noise_multiplier)
        return [_repeat(subject, model, step, recorder, kind, repeats) for kind in kinds]

    other = copy.deepcopy(model)
    empty, batch = releases(model, (nothing, rows))  # both steps start with the same empty batches
    (again,) = releases(other, (nothing,))
    tensors = {name: slice(end - size, end) for name, size, end in zip(watch, sizes, ends, strict=True)}
    return NoiseSample(batch, empty, again, tensors)


def noise_checks(sample: NoiseSample) -> list[Check]:
    """C1: noise of all tensors together; C2: of the worst tensor; C6: independence over steps and runs."""
    parts = (sample.batch, sample.empty, sample.again)
    counts = {len(part) for part in parts}
    if len(counts) > 1 or 0 in counts or not all(np.isfinite(part).all() for part in parts):
        found = "a step released nothing (for an empty batch?), several times, or values that are not finite"
        return [Check("C1", "every step releases a noisy sum once", found, 0.0)]
    everything = slice(0, sample.batch.shape[1])
    ratio, p_value = _shortfall(sample, everything)
    worst, (least, p_tensor) = min(
        ((name, _shortfall(sample, columns)) for name, columns in sample.tensors.items()),
        key=lambda item: item[1][1],
    )
    p_worst = min(1.0, p_tensor * len(sample.tensors))
    correlation, p_repeat = _dependence(sample)
    return [
        Check(
            "C1",
            "the noise is as large as claimed",
            f"{ratio:.4f} of the claimed standard deviation",
            p_value,
        ),
        Check(
            "C2",
            "every tensor gets the claimed noise",
            f"least likely: {worst}, {least:.3f} of the claimed standard deviation (p = {p_worst:.2g})",
            p_worst,
        ),
        Check("C6", "noise is new in each step and run", f"largest correlation {correlation:.4f}", p_repeat),
    ]


def _watched(model: nn.Module) -> dict[str, torch.Tensor]:
    """Coordinates to keep of each parameter: all, or some at random."""
    return {
        name: torch.arange(p.numel(), device=p.device)
        if p.numel() <= _KEPT_PER_TENSOR
        else torch.randint(p.numel(), (_KEPT_PER_TENSOR,), device=p.device).unique()
        for name, p in trainable(model).items()
    }


def _repeat(
    subject: Subject, model: nn.Module, step: Step, recorder: Recorder, rows: torch.Tensor, repeats: int
) -> np.ndarray:
    for _ in range(repeats):
        with seeded(0):
            step(lambda part: subject.losses(model, rows[part]), subject.units[rows])
    return recorder.take(subject) / subject.claim.noise_multiplier


def _shortfall(sample: NoiseSample, columns: slice) -> tuple[float, float]:
    """The smaller noise of the two kinds of batch, over the claimed, and the p-value that it is too small.

    Sums of squares, about the mean or about zero, are chi-square distributed: exact tests.
    """
    batch, empty = sample.batch[:, columns], sample.empty[:, columns]
    squares = (
        (float(((batch - batch.mean(0)) ** 2).sum()), batch.size - batch.shape[1]),
        (float((empty**2).sum()), empty.size),
    )
    results = [(math.sqrt(total / free), float(stats.chi2.cdf(total, free))) for total, free in squares]
    ratio, p_value = min(results, key=lambda result: result[1])
    return ratio, min(1.0, 2 * p_value)


def _dependence(sample: NoiseSample) -> tuple[float, float]:
    """The most significant correlation between steps `lag` apart, or between the same steps of two runs.

    Under independence the two vectors are independent normals, so their cosine has Student's distribution.
    """
    step = np.arange(len(sample.empty))
    pairs = [(sample.empty, sample.again)]
    for lag in _LAGS:
        first = step[(step // lag % 2 == 0) & (step + lag < len(step))]
        pairs.append((sample.empty[first], sample.empty[first + lag]))
    results = [_correlation(a.ravel(), b.ravel()) for a, b in pairs]
    cosine, p_value = min(results, key=lambda result: result[1])
    return cosine, min(1.0, p_value * len(results))


def _correlation(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    if size == 0:
        return 0.0, 1.0  # no noise at all: C1
    cosine = float(np.clip(a @ b / size, -1, 1))
    if abs(cosine) == 1:
        return cosine, 0.0
    t = cosine * math.sqrt((a.size - 1) / (1 - cosine**2))
    return cosine, float(2 * stats.t.sf(abs(t), a.size - 1))
