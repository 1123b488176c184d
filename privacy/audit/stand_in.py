"""A small model in the place of the site's own, so that thousands of the site's own steps can be taken.

The step, the sampler, the batches and every setting stay the site's: what happens from step to step is the step's
doing, not the model's. What the model does to a step is checked on the site's own, over as many steps as there is
time for.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from privacy.audit.subject import Subject
from privacy.clipping.validate import trainable

_FEATURES, _HIDDEN = 12, 16


def stand_in(subject: Subject) -> Subject:
    """The subject with random records and a small model of some 300 parameters in six tensors in place of its own."""
    device = next(iter(trainable(subject.make_model()).values())).device
    generator = torch.Generator().manual_seed(0)  # public: the records are made up
    records = torch.randn(len(subject.units), _FEATURES, generator=generator).to(device)
    labels = (subject.units % 2).to(device)

    def make_model() -> nn.Module:
        return nn.Sequential(
            nn.Linear(_FEATURES, _HIDDEN), nn.LayerNorm(_HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, 2)
        ).to(device)

    def losses(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(records[rows]), labels[rows], reduction="none")

    return replace(subject, make_model=make_model, losses=losses, open_round=None)
