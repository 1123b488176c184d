"""Fusions: from the encoders' tokens of a record to its logits. Each is one file here and one section below.

The code of a fusion is a `mmmed.models.multimodal.MultimodalModel` that is built from the encoders, the number of
outputs and the keys of its section.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from mmmed.modalities import MODALITIES
from mmmed.section import Kind, Kinds, Positive, later

if TYPE_CHECKING:
    from mmmed.config import RunConfig

__all__ = ["FUSIONS", "Attention", "Fusion", "Linear"]

OVER_COUNT = 4.0  # weight of features beside that of their number, which needs less of a clipped gradient


class Fusion(Kind):
    """How the modalities of a record become one prediction.

    Attributes:
        together: how many records' activations training may hold at once, as `Modality.together` says of encoders.
    """

    together: ClassVar[int] = 32

    def is_centring(self, step: int) -> bool:
        """Whether a step of the federation, from 1, learns the mean of the features instead of the task."""
        return False

    def moves(self, step: int, parameter: str) -> bool:
        """Whether a step moves a trained parameter, of this name. To the others it gives noise alone."""
        return True


class _OfVectors(Fusion):
    """A fusion of one vector a modality."""

    together: ClassVar[int] = 256

    width: int = Field(32, ge=8, le=2048, description="width of the fused representation")


class _OfTokens(Fusion):
    """A fusion by attention over the encoders' tokens."""

    width: int = Field(32, ge=8, le=2048, description="width of the fused representation")
    heads: Positive = Field(4, le=256, description="heads of each attention; they divide the width")
    layers: Positive = Field(1, le=64, description="blocks of attention and feed-forward layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of a block's outputs that is dropped")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads. Found {self.width} and {self.heads}")
        return self


class Attention(_OfTokens):
    """Cross-attention of one query over the tokens of all modalities."""

    implementation: ClassVar[str] = "mmmed.models.fusion.attention:AttentionFusion"

    kind: Literal["attention"] = "attention"
    width: int = Field(64, ge=8, le=2048, description="width of the fused representation")


class Linear(Fusion):
    """One linear layer on the pooled features of all modalities."""

    implementation: ClassVar[str] = "mmmed.models.fusion.linear:LinearFusion"
    together: ClassVar[int] = 256  # a vector each

    kind: Literal["linear"] = "linear"
    centring_steps: int = later(
        0,
        ge=0,
        description="so many of a run's steps, the first, learn the mean of frozen encoders' features, which is then "
        "taken from them; needs single steps",
    )

    @staticmethod
    def share(modalities: int) -> float:
        """Of a centring step's clipped gradient, the part of its length that one modality's features are."""
        return OVER_COUNT / math.sqrt((OVER_COUNT**2 + 1) * modalities)

    def is_centring(self, step: int) -> bool:
        return step <= self.centring_steps

    def moves(self, step: int, parameter: str) -> bool:
        return parameter.startswith("centre.") == self.is_centring(step)

    def check_run(self, run: RunConfig) -> None:
        if not self.centring_steps:
            return
        model, federation = run.model, run.federation
        problems = {
            'model.trainable = "fusion-head": features that are trained have no one mean': model.trainable
            != "fusion-head",
            "an encoder that is not trained, of an image, a text or the like": all(
                MODALITIES[name].joins_fusion for name in run.data.modalities
            ),
            'federation.release = "steps" or "secure-steps": sites must learn one mean': federation.release
            == "rounds",
            f"federation.rounds above it. Found {federation.rounds}": self.centring_steps
            >= federation.rounds,
            'a strategy that adds up steps as they are, "fedavg" or "fedavgm"': federation.strategy.scales_coordinates,
        }
        for needed, found in problems.items():
            if found:
                raise ValueError(f"model.fusion.centring_steps = {self.centring_steps} needs {needed}")


class Concat(_OfVectors):
    """Early fusion: a multilayer perceptron on the concatenated features."""

    implementation: ClassVar[str] = "mmmed.models.fusion.concat:ConcatFusion"

    kind: Literal["concat"] = "concat"


class Mean(_OfVectors):
    """The mean of the modalities that are there."""

    implementation: ClassVar[str] = "mmmed.models.fusion.mean:MeanFusion"

    kind: Literal["mean"] = "mean"


class WeightedMean(_OfVectors):
    """A mean of the modalities that are there, with learned weights."""

    implementation: ClassVar[str] = "mmmed.models.fusion.weighted_mean:WeightedMeanFusion"

    kind: Literal["weighted-mean"] = "weighted-mean"


class Channel(_OfVectors):
    """Channels scaled by squeeze-and-excitation across modalities (MMTM)."""

    implementation: ClassVar[str] = "mmmed.models.fusion.channel:ChannelFusion"

    kind: Literal["channel"] = "channel"
    reduction: Positive = Field(
        4, le=2048, description="channels over the features that their scales follow from"
    )


class Gated(_OfVectors):
    """A sum of the modalities, each feature through a gate that all set (GMU)."""

    implementation: ClassVar[str] = "mmmed.models.fusion.gated:GatedFusion"

    kind: Literal["gated"] = "gated"


class LowRank(_OfVectors):
    """Products of the modalities' features, by low-rank factors (LMF)."""

    implementation: ClassVar[str] = "mmmed.models.fusion.low_rank:LowRankFusion"

    kind: Literal["low-rank"] = "low-rank"
    rank: Positive = Field(4, le=256, description="of the tensor of products")


class CrossAttention(_OfTokens):
    """Cross-attention both ways: each modality's tokens attend to all others'."""

    implementation: ClassVar[str] = "mmmed.models.fusion.cross_attention:CrossAttentionFusion"

    kind: Literal["cross-attention"] = "cross-attention"


class Bottleneck(_OfTokens):
    """Attention within each modality and, between them, through a few shared tokens (MBT)."""

    implementation: ClassVar[str] = "mmmed.models.fusion.bottleneck:BottleneckFusion"

    kind: Literal["bottleneck"] = "bottleneck"
    layers: int = Field(
        2, ge=2, le=64, description="blocks; what one modality writes, others read in the next"
    )
    bottlenecks: Positive = Field(4, le=256, description="shared tokens")


class Joint(_OfTokens):
    """Joint encoder: self-attention over the tokens of all modalities."""

    implementation: ClassVar[str] = "mmmed.models.fusion.joint:JointFusion"

    kind: Literal["joint"] = "joint"


class Late(_OfVectors):
    """Late fusion: the logits of each modality, averaged with learned weights."""

    implementation: ClassVar[str] = "mmmed.models.fusion.late:LateFusion"

    kind: Literal["late"] = "late"


class MixtureOfExperts(_OfVectors):
    """The logits of each modality, averaged with weights that each record sets by a gate."""

    implementation: ClassVar[str] = "mmmed.models.fusion.mixture:MixtureFusion"

    kind: Literal["mixture-of-experts"] = "mixture-of-experts"


FUSIONS = Kinds(
    Attention,
    Linear,
    Concat,
    Mean,
    WeightedMean,
    Channel,
    Gated,
    LowRank,
    CrossAttention,
    Bottleneck,
    Joint,
    Late,
    MixtureOfExperts,
)
