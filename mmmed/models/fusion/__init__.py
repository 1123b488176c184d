"""Fusions: from the encoders' tokens of a record to its logits. Each is one file here and one section below.

The code of a fusion is a `mmmed.models.multimodal.MultimodalModel` that is built from the encoders, the number of
outputs and the keys of its section.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from mmmed.section import Kind, Kinds, Positive

__all__ = ["FUSIONS", "Attention", "Fusion", "Linear"]


class Fusion(Kind):
    """How the modalities of a record become one prediction.

    Attributes:
        together: how many records' activations training may hold at once, as `Modality.together` says of encoders.
    """

    together: ClassVar[int] = 32


class Attention(Fusion):
    """Cross-attention over the tokens of all modalities."""

    implementation: ClassVar[str] = "mmmed.models.fusion.attention:AttentionFusion"

    kind: Literal["attention"] = "attention"
    width: int = Field(64, ge=8, le=2048, description="width of the fused representation")
    heads: Positive = Field(4, le=256, description="heads of each attention; they divide the width")
    layers: Positive = Field(1, le=64, description="blocks of attention and feed-forward layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of a block's outputs that is dropped")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Attention:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads. Found {self.width} and {self.heads}")
        return self


class Linear(Fusion):
    """One linear layer on the pooled features of all modalities."""

    implementation: ClassVar[str] = "mmmed.models.fusion.linear:LinearFusion"
    together: ClassVar[int] = 256  # a vector each

    kind: Literal["linear"] = "linear"


FUSIONS = Kinds(Attention, Linear)
