"""C9, C10: every step of a long run adds its noise and clips, whatever the size of its batch.

The site's own model takes as many of the claimed steps as there is time for. If those are not all (up to 4,000), a
small model in its place takes all of them.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import nn

from privacy.audit.canaries import with_canaries
from privacy.audit.laws import worst
from privacy.audit.releases import Recorder, columns_of, quiet_step, rows_of, some_coordinates
from privacy.audit.result import Check, certain
from privacy.audit.stand_in import stand_in
from privacy.audit.subject import Step, Subject

_MOST_STEPS = 4000
_FEWEST_STEPS = 8  # of the site's own model, however long they take
_SIZES = np.array([0, 0, 0, 1, 1, 2, 3, 5, 9])  # of batches, drawn at random for each step
_LOUD_SIZES = np.array([1, 1, 2, 4])
_LOUDNESS = 1e4
_BARE = 256  # coordinates that no record reaches: what is released there is noise
_PARTS = 10  # of a run, in each of which every tensor is looked at
TOLERANCE = 1.001


@dataclass(frozen=True, eq=False)
class LongRun:
    """The noise of many steps in a row.

    Attributes:
        sizes: int64 [steps], units in each batch.
        bare: float64 [steps, 256], the noise at coordinates without data, in units of the claimed deviation.
        empty: float64 [empty batches, coordinates], all that those released.
        tensors: name and columns of each parameter tensor.
        lacking: how many steps did not release exactly once.
    """

    sizes: np.ndarray
    bare: np.ndarray
    empty: np.ndarray
    tensors: dict[str, slice]
    lacking: int


class _Stopwatch:
    def __init__(self, seconds: float) -> None:
        self._end = time.process_time() + seconds

    def over(self, step: int) -> bool:
        return step >= _FEWEST_STEPS and time.process_time() > self._end


def _noisy_run(subject: Subject, seconds: float = math.inf) -> LongRun:
    """Take the claimed steps (4,000 at most, or what fits into CPU `seconds`) with batches of 0 to 9 units."""
    subject = with_canaries(subject, _BARE)
    model = subject.make_model()
    watch = some_coordinates(model, _BARE)
    columns = columns_of(watch)
    recorder = Recorder(model, watch=watch)
    step = subject.step(model, recorder, subject.claim.noise_multiplier)
    generator, records = np.random.default_rng(), rows_of(subject)
    steps = _claimed(subject)
    sizes = np.minimum(generator.permutation(np.resize(_SIZES, steps)), len(records))
    bare, empty, stopwatch, lacking, done = [], [], _Stopwatch(seconds), 0, 0
    for size in sizes:
        if stopwatch.over(done):
            break
        chosen = generator.choice(len(records), size, replace=False)
        rows = torch.cat([torch.zeros(0, dtype=torch.int64), *[records[unit][:1] for unit in chosen]])
        _take(subject, model, step, rows, subject.units[rows], 1.0)
        released = recorder.take(subject) / subject.claim.noise_multiplier
        done += 1
        lacking += len(released) != 1 or not bool(np.isfinite(released).all())
        if len(released) == 1:
            bare.append(released[0, columns["canaries.weight"]])
            empty += [released[0]] * int(size == 0)
    total = max(part.stop for part in columns.values())
    return LongRun(
        sizes[:done],
        np.array(bare).reshape(-1, _BARE),
        np.array(empty).reshape(-1, total),
        columns,
        lacking,
    )


def long_runs(subject: Subject, seconds: float) -> list[LongRun]:
    """Run the site's own model for `seconds` at most; if that is too short for all claimed steps, the stand-in too."""
    run = _noisy_run(subject, seconds)
    return [run] if len(run.sizes) == _claimed(subject) else [run, _noisy_run(stand_in(subject))]


def every_step_is_noised(runs: list[LongRun]) -> Check:
    """C9: chi-square of each step, each size of batch, and each tensor in each tenth of the empty batches; exact."""
    claim = "every step is noised, whatever its batch"
    if any(run.lacking for run in runs):
        found = f"{sum(run.lacking for run in runs)} steps did not release once, or not what is finite"
        return Check("C9", claim, found, 0.0)
    parts: dict[str, np.ndarray] = {}
    for number, run in enumerate(runs):
        for step, row in enumerate(run.bare):
            parts[f"step {step + 1} of run {number + 1}"] = row
        for size in np.unique(run.sizes):
            parts[f"batches of {size}, run {number + 1}"] = run.bare[run.sizes == size]
        for tenth, some in enumerate(np.array_split(run.empty, _PARTS)):
            for name, columns in run.tensors.items():
                if len(some):
                    parts[f"{name}, tenth {tenth + 1} of run {number + 1}"] = some[:, columns]
    tails = {name: float(stats.chi2.cdf((part**2).sum(), part.size)) for name, part in parts.items()}
    least = min(tails, key=lambda name: tails[name])
    deviation = math.sqrt(float((parts[least] ** 2).mean()))
    p_value = worst(list(tails.values()))
    counts = " and ".join(str(len(run.sizes)) for run in runs)
    found = f"{counts} steps; least likely: {least}, {deviation:.3f} of the claimed (p = {p_value:.2g})"
    return Check("C9", claim, found, p_value)


def every_step_clips(subject: Subject, seconds: float) -> Check:
    """C10: with the noise all but off, k patients with the same huge gradient move the sum by k C at most."""
    worst_norm, where = 0.0, ""
    counts: list[str] = []
    for one, limit in ((subject, seconds), (stand_in(subject), math.inf)):
        if counts == [str(_claimed(subject))]:
            break  # the site's own model took all steps
        norms = _loud_run(one, limit)
        counts.append(str(len(norms)))
        largest = float(norms.max(initial=0.0))
        if largest >= worst_norm:
            worst_norm, where = largest, f"step {int(norms.argmax()) + 1}"
    return certain(
        "C10",
        "every step clips every patient to C",
        f"{worst_norm:.4f} C a patient ({where} of {' and '.join(counts)})",
        worst_norm <= TOLERANCE,
    )


def _claimed(subject: Subject) -> int:
    return min(subject.claim.steps, _MOST_STEPS)


def _loud_run(subject: Subject, seconds: float) -> np.ndarray:
    """Norm of the released sum per unit in the batch, in units of C, float64 [steps]."""
    model = subject.make_model()
    step, recorder = quiet_step(subject, model)
    generator, records = np.random.default_rng(), rows_of(subject)
    norms: list[float] = []
    stopwatch = _Stopwatch(seconds)
    for done in range(_claimed(subject)):
        if stopwatch.over(done):
            break
        count = int(generator.choice(_LOUD_SIZES))
        rows = records[int(generator.integers(len(records)))][:1].repeat(count)
        _take(subject, model, step, rows, torch.arange(count), _LOUDNESS)
        sums = recorder.take(subject)
        norm = float(np.linalg.norm(sums.sum(0))) / count if len(sums) else 0.0
        norms.append(norm if math.isfinite(norm) else math.inf)
    return np.array(norms)


def _take(
    subject: Subject, model: nn.Module, step: Step, rows: torch.Tensor, units: torch.Tensor, loudness: float
) -> None:
    step(lambda part: subject.losses(model, rows[part]) * loudness, units)
