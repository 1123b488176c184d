"""The canary game: many made-up patients, each in the data with probability 1/2, each with its own coordinate.

Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run", Algorithm 1, with Dirac gradient
canaries (Nasr et al. 2023, "Tight Auditing of Differentially Private Machine Learning"). A canary's gradient is
huge and lies along one coordinate of a layer that is added to the model; it goes through the real sampler,
clipping, noise and division. No other record has a gradient there, so what is released at the coordinate is
the canary's contribution and the noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from privacy.audit.releases import Recorder
from privacy.audit.subject import Part, Subject
from privacy.noise import PrivateRandom

_LEARNING_RATE = 0.01  # the model moves, as in training


class _WithCanaries(nn.Module):
    """The model, called and read as ever, and a layer that only canaries use."""

    def __init__(self, model: nn.Module, canaries: int) -> None:
        super().__init__()
        self.audited = model
        self.canaries = nn.Linear(canaries, 1, bias=False, device=next(model.parameters()).device)
        nn.init.zeros_(self.canaries.weight)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.audited(*args, **kwargs)

    def unused(self, records: int) -> torch.Tensor:
        """A loss of 0 [records], for which the layer was called."""
        weight = self.canaries.weight
        return self.canaries(torch.zeros(records, weight.shape[1], device=weight.device))[:, 0]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("audited"), name)


def with_canaries(subject: Subject, canaries: int) -> Subject:
    """The subject with a linear layer added to its model, which is 0 on the subject's own records."""

    def losses(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        assert isinstance(model, _WithCanaries)
        return subject.losses(model, rows) + model.unused(len(rows))

    return replace(subject, make_model=lambda: _WithCanaries(subject.make_model(), canaries), losses=losses)


@dataclass(frozen=True, eq=False)
class Game:
    """What one training run shows of its canaries.

    Attributes:
        observed: float64 [steps, canaries], the released sum at each canary's coordinate, in units of C.
        included: bool [canaries], which canaries are in the data.
        present: bool [steps, canaries], which of them the sampler drew.
    """

    observed: np.ndarray
    included: np.ndarray
    present: np.ndarray


def play(subject: Subject, canaries: int, steps: int) -> Game:
    """Train for `steps` steps on the synthetic records and the included canaries. Raises what the step raises."""
    playing = with_canaries(subject, canaries)
    model = playing.make_model()
    assert isinstance(model, _WithCanaries)
    device = model.canaries.weight.device
    recorder = Recorder(model, _LEARNING_RATE, {"canaries.weight": torch.arange(canaries, device=device)})
    step = playing.step(model, recorder, subject.claim.noise_multiplier)

    included = PrivateRandom().bernoulli(canaries, 0.5)
    members = np.flatnonzero(included)
    size = int(subject.units.max()) + 1
    present = np.zeros((steps, canaries), dtype=bool)
    observed = np.zeros((steps, canaries))
    huge = 1e4 * max(1.0, subject.max_grad_norm)
    drawn = subject.make_sampler(size + len(members), steps)
    for t, indices in zip(range(steps), drawn, strict=False):
        real, units = subject.draw(indices[indices < size])
        chosen = members[indices[indices >= size] - size]
        present[t, chosen] = True
        # A canary's own forward pass is that of some record, weighted by 0.
        rows = torch.cat([real, torch.from_numpy(chosen) % len(subject.units)])
        units = torch.cat([units, size + torch.from_numpy(chosen)])
        direction = torch.zeros(len(rows), canaries, device=device)
        direction[torch.arange(len(real), len(rows)), torch.from_numpy(chosen)] = huge

        def losses(
            part: Part, rows: torch.Tensor = rows, direction: torch.Tensor = direction
        ) -> torch.Tensor:
            own = direction[part]
            return subject.losses(model, rows[part]) * (own == 0).all(1) + model.canaries(own)[:, 0]

        step(losses, units)
        released = recorder.take(subject)
        if len(released):  # else nothing was released, which shows as zeros
            observed[t] = released.sum(0)
    return Game(observed, included, present)
