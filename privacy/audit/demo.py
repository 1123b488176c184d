"""A small subject of our own: the site's step and sampler on a small convolutional network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from privacy.accounting import DpSgdEvent, calibrate_noise_multiplier
from privacy.audit.subject import Subject, dpsgd_subject
from privacy.clipping.engine import EngineName

_PATIENTS, _RATE, _STEPS, _DELTA = 60, 0.1, 200, 1e-5


def demo_subject(target_epsilon: float = 4.0, engine: EngineName = "bookkeeping") -> Subject:
    """60 generated patients, a third of them with two images of 1 x 8 x 8; the noise calibrated to the target.

    The ghost engine takes one record a patient only.
    """
    generator = torch.Generator().manual_seed(0)  # public: the data are made up
    second = torch.arange(0, 0 if engine == "ghost" else _PATIENTS, 3)
    units = torch.cat([torch.arange(_PATIENTS), second])
    images = torch.randn(len(units), 1, 8, 8, generator=generator)
    images[0] *= 20  # an outlier joins in C7
    labels = units % 2

    def make_model() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1),
            nn.GroupNorm(2, 8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 2),
        )

    def losses(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(images[rows]), labels[rows], reduction="none")

    noise = calibrate_noise_multiplier(target_epsilon, _DELTA, _RATE, _STEPS)
    return dpsgd_subject(
        make_model,
        losses,
        units,
        DpSgdEvent(noise, _RATE, _STEPS),
        delta=_DELTA,
        max_grad_norm=1.0,
        expected_units=_RATE * _PATIENTS,
        engine=engine,
    )
