"""The smallest fusion: one linear layer on the pooled features of all modalities.

Noise grows with the number of trained parameters, so at a small epsilon, with frozen pretrained encoders, this
learns more than attention does (Tramer & Boneh 2021, arXiv 2011.11660). Each modality's mean feature is scaled to
unit length, which bounds a record's gradient and gives no modality the greater say; a missing one is zero.

What all records' features have in common tells nothing of any, and it is most of a pretrained encoder's: on
HAM10000 their mean is 0.67 long for images and 0.94 for sentences. `Centre` takes it away where a run spends its first
steps on learning it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from mmmed.data.batch import Batch, Input
from mmmed.modalities import MODALITIES
from mmmed.models.fusion import OVER_COUNT
from mmmed.models.fusion.blocks import Pooled, zero_head
from mmmed.models.multimodal import Encoder, MultimodalModel

_LONGEST = 0.95  # a mean of vectors of unit length is shorter than 1; noise might make it longer


class Centre(nn.Module):
    """The mean of one modality's features, and the features about it at unit scale.

    A linear layer whose output is minimised has the gradient (-x, -1) of each record: steps on it add up the features
    and their number, clipped and noised as any other private step, and nothing else has to be charged or proven. From
    unit vectors x of mean m, E|x - m|^2 is 1 - |m|^2, so the mean tells the scale as well.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.total = zero_head(width, 1)  # weight: sum of features; bias: how many, over OVER_COUNT

    def losses(self, features: torch.Tensor) -> torch.Tensor:
        """(R, width) -> (R,), of whose gradients the mean is made."""
        added: torch.Tensor = self.total(OVER_COUNT * features)[:, 0]
        return -added

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(R, width) -> (R, width). As they came before anything was learnt; finite whatever the parameters are."""
        total, count = self.total.weight.detach()[0], OVER_COUNT * self.total.bias.detach()[0]
        mean = total / torch.maximum(count, total.norm() / _LONGEST).clamp(min=1e-12) * (count > 0)
        return (features - mean) / (1 - mean.square().sum()).sqrt()


class LinearFusion(MultimodalModel):
    """Pooled encoders and a linear head; see the module.

    Args:
        encoders: by the name of the modality; each becomes a submodule of that name.
        outputs: logits a record.
        centring_steps: see `mmmed.models.fusion.Linear`. With any, the frozen encoders' features have a `Centre`.
    """

    def __init__(self, encoders: Mapping[str, Encoder], *, outputs: int, centring_steps: int = 0) -> None:
        super().__init__({name: Pooled(encoder) for name, encoder in encoders.items()})
        frozen = [name for name in encoders if centring_steps and not MODALITIES[name].joins_fusion]
        self.centre = nn.ModuleDict({name: Centre(encoders[name].width) for name in frozen})
        self.head = zero_head(sum(encoder.width for encoder in encoders.values()), outputs)

    def forward(self, batch: Batch, centring: bool = False) -> torch.Tensor:
        if centring:
            return self._centring_losses(batch)
        parts = []
        for name in self.modalities:
            features, there = self._features(name, batch.inputs[name])
            parts.append((self.centre[name](features) if name in self.centre else features) * there)
        return self.head(torch.cat(parts, dim=1))

    def _centring_losses(self, batch: Batch) -> torch.Tensor:
        losses = torch.zeros(len(batch), device=batch.label.device)
        for name, centre in self.centre.items():
            features, there = self._features(name, batch.inputs[name])
            losses = losses + cast(Centre, centre).losses(features) * there[:, 0]
        return losses

    def _features(self, name: str, given: Input) -> tuple[torch.Tensor, torch.Tensor]:
        """(R, width) of unit length, and (R, 1) bool, whether there is anything of the modality."""
        return F.normalize(self.encoder(name)(given)[:, 0], dim=1), given.present.any(1, keepdim=True)
