"""The base of all models: an encoder for each modality, and a fusion that reads what the encoders give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmmed.data.batch import Batch, Input


class Encoder(Protocol):
    """A module from one modality of R records to feature tokens, (R, S, width) float.

    S is the number of flags in `Input.present`, or any number where that has one flag a record.
    """

    width: int

    def __call__(self, given: Input, /) -> torch.Tensor: ...


class MultimodalModel(nn.Module):
    """`forward(batch)` gives (R, outputs) logits, one output for a binary task.

    Of a task of text (`mmmed.models.decoder`) they are given the label's tokens before each, and `answer` writes.

    Of a fusion that learns the mean of its features first (`Fusion.is_centring`), `forward(batch, centring=True)` gives
    the (R,) losses of those steps.

    Args:
        encoders: by the name of the modality; each becomes a submodule of that name.
        head: the last layer.
    """

    head: nn.Linear

    def __init__(self, encoders: Mapping[str, Encoder]) -> None:
        super().__init__()
        self.modalities = tuple(encoders)
        for name, encoder in encoders.items():
            self.add_module(name, cast(nn.Module, encoder))

    def forward(self, batch: Batch) -> torch.Tensor:
        raise NotImplementedError

    def answer(self, batch: Batch) -> torch.Tensor:
        """(R, outputs) of records of which nobody knows the label: no label reaches them."""
        outputs: torch.Tensor = self(batch)
        return outputs

    def encoder(self, name: str) -> nn.Module:
        """The encoder of a modality."""
        return self.get_submodule(name)

    def frozen(self, name: str) -> bool:
        """Whether no parameter of a modality's encoder is trained."""
        return not any(parameter.requires_grad for parameter in self.encoder(name).parameters())

    def train(self, mode: bool = True) -> MultimodalModel:
        """As `nn.Module.train`, but a frozen encoder stays in evaluation mode, and so does every BatchNorm.

        A frozen encoder's features are then the same at every step. BatchNorm uses the statistics that its weights
        came with, which neither mixes records nor learns from them; its scale and shift can be trained.
        """
        super().train(mode)
        for name in self.modalities:
            if self.frozen(name):
                self.encoder(name).eval()
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self


def masked_mean(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(R, T, d) and (R, T) -> (R, 1, d): the mean of the visible tokens, zero where none is."""
    weight = mask.to(tokens.dtype)[..., None]
    return (tokens * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
