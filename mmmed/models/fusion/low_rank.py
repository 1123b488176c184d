"""Low-rank bilinear fusion: products of the modalities' features, by factors of the tensor of all products.

Liu et al. 2018 (LMF, arXiv 1806.00064, equation 6): h = sum over ranks of the product over modalities of W_m [x_m, 1].
The appended 1 keeps what fewer modalities say; a missing one leaves its factor at the bias, which begins at 1.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from mmmed.data.batch import Batch
from mmmed.models.fusion.blocks import VectorModel, zero_head
from mmmed.models.multimodal import Encoder


class LowRankFusion(VectorModel):
    """Pooled encoders, the product of m factors of rank x d, its mean over ranks, and a linear head."""

    def __init__(self, encoders: Mapping[str, Encoder], *, outputs: int, width: int, rank: int) -> None:
        super().__init__(encoders, width)
        self.factors = nn.ModuleList(_factor(width, rank) for _ in encoders)
        self.rank = rank
        self.head = zero_head(width, outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        vectors, _ = self.vectors(batch)  # [r, m, d]
        factors = [factor(vectors[:, i]) for i, factor in enumerate(self.factors)]  # m of [r, rank d]
        product = torch.stack(factors).prod(0)
        return self.head(product.unflatten(1, (self.rank, -1)).mean(1))


def _factor(width: int, rank: int) -> nn.Linear:
    factor = nn.Linear(width, rank * width)
    nn.init.ones_(factor.bias)
    return factor
