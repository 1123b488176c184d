"""A toy fusion, as somebody outside the project would write it: the maximum of each feature over the modalities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import nn

from mmmed.data.batch import Batch
from mmmed.models.fusion import Fusion
from mmmed.models.multimodal import Encoder, MultimodalModel, masked_mean


class Maximum(Fusion):
    """The largest of what the modalities say, feature by feature."""

    implementation: ClassVar[str] = "tests.contracts.maximum:MaximumFusion"

    kind: Literal["maximum"] = "maximum"
    size: int = 16
    names: tuple[str, ...] = ("a",)


class MaximumFusion(MultimodalModel):
    def __init__(
        self, encoders: Mapping[str, Encoder], *, outputs: int, size: int, names: tuple[str, ...]
    ) -> None:
        super().__init__(encoders)
        for name, encoder in encoders.items():
            self.add_module(f"{name}_part", nn.Linear(encoder.width, size))
        self.head = nn.Linear(size, outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        parts = []
        for name in self.modalities:
            given = batch.inputs[name]
            tokens = self.encoder(name)(given)
            pooled = masked_mean(tokens, given.present.expand(-1, tokens.shape[1]))[:, 0]
            part = torch.relu(self.get_submodule(f"{name}_part")(pooled))
            parts.append(given.present.any(1, keepdim=True) * part)
        logits: torch.Tensor = self.head(torch.stack(parts).amax(0))
        return logits
