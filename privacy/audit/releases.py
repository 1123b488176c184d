"""What a step releases, read where it leaves the step: the gradient that it hands to the optimiser."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from privacy.audit.subject import Step, Subject, seeded
from privacy.clipping.validate import trainable

WHISPER = 1e-5  # norm of the noise that is left on, in units of C: the real code path, undisturbed


class Recorder(torch.optim.SGD):
    """An optimiser that keeps what it is given.

    A parameter without a gradient counts as zero: a released parameter without noise.
    """

    def __init__(
        self, model: nn.Module, lr: float = 0.0, watch: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        """
        Args:
            model: all of its trainable parameters are held.
            lr: learning rate; at 0 the model stays as it is.
            watch: the flat coordinates to keep, by parameter; all of them if None.
        """
        self._watched = trainable(model)
        self._coordinates = watch
        self.releases: list[torch.Tensor] = []
        super().__init__(list(self._watched.values()), lr=lr)

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        names = self._watched if self._coordinates is None else self._coordinates
        self.releases.append(torch.cat([self._kept(name) for name in names]))
        super().step()

    def _kept(self, name: str) -> torch.Tensor:
        parameter = self._watched[name]
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        flat = gradient.detach().reshape(-1)
        return (flat.clone() if self._coordinates is None else flat[self._coordinates[name]]).double().cpu()

    def take(self, subject: Subject) -> np.ndarray:
        """Everything kept since the last call, as sums in units of C: float64 [steps, coordinates]."""
        releases, self.releases = self.releases, []
        scale = subject.expected_units / subject.max_grad_norm
        return torch.stack(releases).numpy() * scale if releases else np.zeros((0, 0))


def quiet_step(subject: Subject, model: nn.Module) -> tuple[Step, Recorder]:
    """A step of the subject that moves nothing and hardly adds noise (`WHISPER`), and the recorder of its releases."""
    recorder = Recorder(model)
    size = sum(parameter.numel() for parameter in trainable(model).values())
    return subject.step(model, recorder, WHISPER / math.sqrt(size)), recorder


def rows_of(subject: Subject) -> list[torch.Tensor]:
    """The records of each unit, int64 [records of the unit]."""
    count = int(subject.units.max()) + 1
    return [torch.nonzero(subject.units == unit).flatten() for unit in range(count)]


def some_coordinates(model: nn.Module, most: int) -> dict[str, torch.Tensor]:
    """Flat coordinates to watch of each trained tensor: all of them, or `most` at random."""
    return {
        name: torch.arange(p.numel(), device=p.device)
        if p.numel() <= most
        else torch.randint(p.numel(), (most,), device=p.device).unique()
        for name, p in trainable(model).items()
    }


def columns_of(watch: Mapping[str, torch.Tensor]) -> dict[str, slice]:
    """Columns of each tensor's watched coordinates in a release."""
    ends = list(itertools.accumulate(map(len, watch.values())))
    return {name: slice(end - len(watch[name]), end) for name, end in zip(watch, ends, strict=True)}


def steady(subject: Subject) -> Subject:
    """The subject, in evaluation mode if its losses draw randomness that no public seed repeats (private dropout).

    Two sums can only be compared if nothing random sets them apart but the noise.
    """
    model = subject.make_model()
    step, recorder = quiet_step(subject, model)
    rows = torch.cat([records[:1] for records in rows_of(subject)[:2]])
    for _ in range(2):
        with seeded(0):
            step(lambda part: subject.losses(model, rows[part]), subject.units[rows])
    released = recorder.take(subject)
    if len(released) != 2 or not float(np.abs(released[0] - released[1]).max()) > 10 * WHISPER:
        return subject
    return replace(subject, make_model=lambda: subject.make_model().eval())
