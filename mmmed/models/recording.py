"""Encoders of recordings over time: a CNN over spectrograms, an xResNet over leads, a transformer over spans of either.

All read (R, channels, length) as `mmmed.data.recording` stores it, and give one token for each span of `span` columns.
What was not recorded is zero in what they compute with; everything acts within one record.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from mmmed.data.batch import Input

_GROUPS = 8
_LAYERS, _HEADS = 2, 4
_STEPS = (1, 2, 2, 2)  # strides of the xResNet's stages


def recorded(given: Input, span: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values in [-1, 1], zero where nothing was recorded, and (R, channels, length) bool, where something was."""
    there = given.present.repeat_interleave(span, dim=1)[:, None] & (given.values > 0)
    return (2 * given.values - 1) * there, there


class SpectrogramCNN(nn.Module):
    """Log-mel (R, mels, frames) -> (R, frames / 8, width): three stages that halve bands and frames.

    What a token knows of the bands that are left is put together by one linear layer, so that it knows which they are.
    """

    def __init__(self, mels: int, span: int, width: int) -> None:
        super().__init__()
        self.span, self.width = span, width
        stages = (width // 4, width // 2, width)
        layers: list[nn.Module] = []
        for before, channels in zip((1, *stages), stages, strict=False):
            layers += [
                nn.Conv2d(before, channels, 3, stride=2, padding=1, bias=False),
                nn.GroupNorm(_GROUPS, channels), nn.ReLU(),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                nn.GroupNorm(_GROUPS, channels), nn.ReLU(),
            ]  # fmt: skip
        self.trunk = nn.Sequential(*layers)
        self.bands = nn.Linear(width * -(-mels // 8), width)

    def forward(self, given: Input) -> torch.Tensor:
        values, _ = recorded(given, self.span)
        features = self.trunk(values[:, None])  # [r, width, mels / 8, t]
        tokens: torch.Tensor = F.relu(self.bands(features.flatten(1, 2).transpose(1, 2)))
        return tokens


class XResNet1d(nn.Module):
    """Leads (R, leads, samples) -> (R, samples / 32, width): a 1D ResNet with the stem and shortcuts of xResNet.

    Strodthoff et al. 2021 (arXiv 2004.13701) take it for 12-lead ECGs; this one has a block a stage and GroupNorm.
    Beside its values a lead's flags are read, so that one that is missing is not one that is flat.
    """

    def __init__(self, leads: int, span: int, width: int) -> None:
        super().__init__()
        self.span, self.width = span, width
        first = width // 4
        self.stem = nn.Sequential(
            _convolution(2 * leads, first, 5, step=2), nn.ReLU(),
            _convolution(first, first, 5), nn.ReLU(),
            _convolution(first, first, 5), nn.ReLU(),
            nn.MaxPool1d(3, stride=2, padding=1),
        )  # fmt: skip
        widths = (first, first, width // 2, width // 2, width)
        self.stages = nn.Sequential(
            *(
                _Residual(before, channels, step)
                for before, channels, step in zip(widths[:-1], widths[1:], _STEPS, strict=True)
            )
        )

    def forward(self, given: Input) -> torch.Tensor:
        values, there = recorded(given, self.span)
        features: torch.Tensor = self.stages(self.stem(torch.cat([values, there.to(values.dtype)], dim=1)))
        return features.transpose(1, 2)


class OverTime(nn.Module):
    """An encoder that ends in layers of self-attention over what follows in time."""

    def add_layers(self, length: int, width: int) -> None:
        """Make the layers, for `length` tokens of `width` each."""
        self.position = nn.Embedding(length, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, _HEADS, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(_LAYERS)
        )
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.position.weight, std=0.02)

    def attend(self, tokens: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Tokens (R, T, width), each after it has seen those of its record that are `present`, (R, T) bool."""
        places = torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
        tokens = tokens + self.position(places)
        # attention over nothing is undefined: a recording that is missing looks at itself, and nobody at it
        hidden = ~(present | ~present.any(1, keepdim=True))
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=hidden)
        normed: torch.Tensor = self.norm(tokens)
        return normed


class PatchTransformer(OverTime):
    """Recordings (R, channels, length) -> (R, length / span, width): a token a span, and layers of self-attention.

    A token begins as a linear layer of the span's values and of each channel's share in it that was recorded.
    """

    def __init__(self, channels: int, length: int, span: int, width: int) -> None:
        super().__init__()
        self.span, self.width = span, width
        self.embed = nn.Linear(channels * (span + 1), width)
        self.add_layers(length // span, width)

    def forward(self, given: Input) -> torch.Tensor:
        values, there = recorded(given, self.span)
        shares = there.to(values.dtype).unflatten(2, (-1, self.span)).mean(3, keepdim=True)
        patches = torch.cat([values.unflatten(2, (-1, self.span)), shares], dim=3)  # [r, c, t, span + 1]
        return self.attend(self.embed(patches.transpose(1, 2).flatten(2)), given.present)


class _Residual(nn.Module):
    """Two convolutions beside a shortcut that averages before it is projected, as xResNet's does."""

    def __init__(self, before: int, width: int, step: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(before, width, 5, step=step), nn.ReLU(), _convolution(width, width, 5)
        )
        shortcut = [nn.AvgPool1d(step)] if step > 1 else []
        self.shortcut = nn.Sequential(
            *shortcut, *([_convolution(before, width, 1)] if before != width else [])
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def _convolution(before: int, width: int, kernel: int, step: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(before, width, kernel, stride=step, padding=kernel // 2, bias=False),
        nn.GroupNorm(_GROUPS, width),
    )
