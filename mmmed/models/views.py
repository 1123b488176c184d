"""From several images of a study to a token each: one CNN for all, and attention pooling within each."""

from __future__ import annotations

import torch
from torch import nn

from mmmed.data.batch import Input
from mmmed.models.image import ImageEncoder


class ViewsEncoder(nn.Module):
    """Images (R, channels, V, H, W) in [0, 1] -> (R, V, width).

    The places of a view are pooled by attention, and what is learnt of which view it is is added (Ilse et al. 2018,
    arXiv 1802.04712, equation 8, without the gate).

    Args:
        image: reads each of the views.
        views: V.
    """

    def __init__(self, image: ImageEncoder, views: int) -> None:
        super().__init__()
        self.image, self.width = image, image.width
        self.hidden, self.score = nn.Linear(self.width, self.width // 4), nn.Linear(self.width // 4, 1)
        self.which = nn.Embedding(views, self.width)
        nn.init.normal_(self.which.weight, std=0.02)

    def forward(self, given: Input) -> torch.Tensor:
        views = zip(given.values.unbind(2), given.present.split(1, 1), strict=True)
        tokens = torch.stack([self._pooled(Input(*one)) for one in views], dim=1)
        numbers = torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
        return tokens + self.which(numbers)

    def _pooled(self, given: Input) -> torch.Tensor:
        places = self.image(given)  # [r, s, width]
        shares = torch.softmax(self.score(torch.tanh(self.hidden(places))), dim=1)
        pooled: torch.Tensor = (shares * places).sum(1)
        return pooled
