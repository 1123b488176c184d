"""C1, C2, C6, C8: the noise that the step adds, measured on the user's own model.

The same batch is released many times by a model that does not move, with every public random state set alike:
what differs between releases is noise, and nothing else. Empty batches release noise alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from scipy.linalg import helmert
from torch import nn

from privacy.audit.laws import (
    LATTICE,
    dependence_p_value,
    likeness_p_value,
    normal_p_value,
    quieted,
    repetition_p_value,
    worst,
)
from privacy.audit.releases import Recorder, columns_of, rows_of, some_coordinates
from privacy.audit.result import Check
from privacy.audit.subject import Step, Subject, seeded
from privacy.clipping.validate import trainable

_KEPT_PER_TENSOR = 2_000  # coordinates; more add little but time
_REPEATS = (32, 256)  # fewest and most releases of an empty batch
_BATCHES = 16  # releases of a batch with records, which cost a pass through the model each


@dataclass(frozen=True, eq=False)
class NoiseSample:
    """Repeated releases, float64 [repeats, coordinates], in units of the claimed noise standard deviation.

    Attributes:
        batch: of one batch of two units.
        empty: of an empty batch, by the same step.
        again: of an empty batch, by a second step from the same public random state.
        tensors: name and columns of each parameter tensor.
        precision: relative, of the numbers that were released.
        lattice: as `Subject.lattice`.
    """

    batch: np.ndarray
    empty: np.ndarray
    again: np.ndarray
    tensors: dict[str, slice]
    precision: float = 2.0**-23
    lattice: float = LATTICE

    @property
    def broken(self) -> bool:
        """Whether a step released nothing, several times, or what is not finite."""
        parts = (self.batch, self.empty, self.again)
        uneven = len(self.empty) != len(self.again) or 0 in map(len, parts)
        return uneven or not all(np.isfinite(part).all() for part in parts)


def sample_noise(subject: Subject, values: int) -> NoiseSample:
    """Release until each kind has at least `values` numbers (within 32 to 256 releases)."""
    model = subject.make_model()
    watch = some_coordinates(model, _KEPT_PER_TENSOR)
    tensors = columns_of(watch)
    kept = sum(map(len, watch.values()))
    repeats = min(max(math.ceil(values / kept), _REPEATS[0]), _REPEATS[1])
    rows = torch.cat([records[:1] for records in rows_of(subject)[:2]])
    nothing = torch.zeros(0, dtype=torch.int64)

    def releases(model: nn.Module, kinds: tuple[tuple[torch.Tensor, int], ...]) -> list[np.ndarray]:
        recorder = Recorder(model, watch=watch)
        step = subject.step(model, recorder, subject.claim.noise_multiplier)
        return [_repeat(subject, model, step, recorder, kind, times) for kind, times in kinds]

    other = copy.deepcopy(model)
    # Both steps start with the same empty batches.
    empty, batch = releases(model, ((nothing, repeats), (rows, _BATCHES)))
    (again,) = releases(other, ((nothing, repeats),))
    return NoiseSample(batch, empty, again, tensors, precision(model), subject.lattice)


def precision(model: nn.Module) -> float:
    """The largest relative rounding error (machine epsilon) among the types of the trained parameters."""
    return max(torch.finfo(p.dtype).eps for p in trainable(model).values())


def size_checks(sample: NoiseSample) -> list[Check]:
    """C1: the noise of all tensors together is as large as claimed; C2: that of the worst tensor is."""
    if sample.broken:
        found = "a step released nothing (for an empty batch?), several times, or values that are not finite"
        return [Check("C1", "every step releases a noisy sum once", found, 0.0)]
    everything = slice(0, sample.batch.shape[1])
    ratio, p_value = _shortfall(sample, everything)
    name, (least, p_tensor) = min(
        ((name, _shortfall(sample, columns)) for name, columns in sample.tensors.items()),
        key=lambda item: item[1][1],
    )
    p_worst = min(1.0, p_tensor * len(sample.tensors))
    found = f"least likely: {name}, {least:.3f} of the claimed standard deviation (p = {p_worst:.2g})"
    return [
        Check(
            "C1",
            "the noise is as large as claimed",
            f"{ratio:.4f} of the claimed standard deviation",
            p_value,
        ),
        Check("C2", "every tensor gets the claimed noise", found, p_worst),
    ]


def law_checks(sample: NoiseSample, long: Sequence[np.ndarray]) -> list[Check]:
    """C6: noise is new in each step and run; C8: it is normal. `long` are noises of long runs, [steps, coordinates]."""
    if sample.broken:
        return []  # C1 fails
    empty, again = (
        np.concatenate([quieted(part[:, columns]) for columns in sample.tensors.values()], axis=1)
        for part in (sample.empty, sample.again)
    )
    held = np.concatenate(
        [
            quieted(helmert(len(sample.batch)) @ sample.batch[:, columns])
            for columns in sample.tensors.values()
        ],
        axis=1,
    )
    # Rows of two runs in turn, so that few coordinates suffice to compare the runs.
    rows = np.vstack([np.stack([empty, again], axis=1).reshape(-1, empty.shape[1]), held])
    released = np.vstack([sample.empty, sample.again])
    new = {
        "a combination of earlier noises": dependence_p_value(rows),
        "values that occur again": worst(
            [repetition_p_value(part, sample.precision, sample.lattice) for part in (released, *long)]
        ),
        "two steps alike": worst([likeness_p_value(quieted(part)) for part in (rows, *long)]),
    }
    least = min(new, key=lambda kind: new[kind])
    p_new = worst(list(new.values()))
    samples = [np.vstack([empty, again]), held, *map(quieted, long)]
    p_normal = worst([normal_p_value(part) for part in samples])
    values = sum(part.size for part in samples)
    return [
        Check("C6", "noise is new in each step and run", f"least likely: {least} (p = {p_new:.2g})", p_new),
        Check(
            "C8", "the noise is Gaussian", f"{values:,} values and their tails (p = {p_normal:.2g})", p_normal
        ),
    ]


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
