"""A toy fusion, as somebody outside the project would write it: each record's modalities weigh themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import nn

from mmmed.data.batch import Batch
from mmmed.models.fusion import Fusion
from mmmed.models.multimodal import Encoder, MultimodalModel, masked_mean


class Gated(Fusion):
    """A mean of the modalities, each by a gate of its own."""

    implementation: ClassVar[str] = "tests.contracts.gated:GatedFusion"

    kind: Literal["gated"] = "gated"
    size: int = 16
    names: tuple[str, ...] = ("a",)


class GatedFusion(MultimodalModel):
    def __init__(
        self, encoders: Mapping[str, Encoder], *, outputs: int, size: int, names: tuple[str, ...]
    ) -> None:
        super().__init__(encoders)
        for name, encoder in encoders.items():
            self.add_module(f"{name}_part", nn.Linear(encoder.width, size))
            self.add_module(f"{name}_gate", nn.Linear(encoder.width, 1))
        self.head = nn.Linear(size, outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        total: torch.Tensor | float = 0.0
        for name in self.modalities:
            given = batch.inputs[name]
            tokens = self.encoder(name)(given)
            pooled = masked_mean(tokens, given.present.expand(-1, tokens.shape[1]))[:, 0]
            part, gate = self.get_submodule(f"{name}_part"), self.get_submodule(f"{name}_gate")
            total = total + given.present.any(1, keepdim=True) * torch.sigmoid(gate(pooled)) * part(pooled)
        logits: torch.Tensor = self.head(total)
        return logits
