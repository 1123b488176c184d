"""The task itself: net, data, settings."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

CLIENTS = 4
ROUNDS = 3
STEPS = 7  # a round: one epoch at the sampling rate
SAMPLING_RATE = 1 / STEPS
IMAGES = 200
BATCH = 32
NOISE_MULTIPLIER = 1.0
MAX_GRAD_NORM = 1.0
DELTA = 1e-3
LEARNING_RATE = 0.1


def build_net() -> nn.Module:
    """Three convolutions with GroupNorm, 18,402 parameters; the same values each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            OrderedDict(
                [
                    ("conv1", nn.Conv2d(1, 16, 3, stride=2, padding=1)),
                    ("norm1", nn.GroupNorm(4, 16)),
                    ("relu1", nn.ReLU()),
                    ("conv2", nn.Conv2d(16, 32, 3, stride=2, padding=1)),
                    ("norm2", nn.GroupNorm(4, 32)),
                    ("relu2", nn.ReLU()),
                    ("conv3", nn.Conv2d(32, 32, 3, stride=2, padding=1)),
                    ("norm3", nn.GroupNorm(4, 32)),
                    ("relu3", nn.ReLU()),
                    ("pool", nn.AdaptiveAvgPool2d(2)),
                    ("flat", nn.Flatten()),
                    ("hidden", nn.Linear(128, 32)),
                    ("relu4", nn.ReLU()),
                    ("head", nn.Linear(32, 2)),
                ]
            )
        )


def client_data(client: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [200, 1, 64, 64] float32 of noise, with a bright square where the label [200] int64 is 1."""
    random = torch.Generator().manual_seed(client)
    labels = torch.randint(0, 2, (IMAGES,), generator=random)
    images = torch.randn(IMAGES, 1, 64, 64, generator=random)
    images[:, :, 20:44, 20:44] += 0.5 * labels[:, None, None, None]
    return images, labels


def mean_loss(state: dict[str, torch.Tensor]) -> float:
    """Cross-entropy of a model, averaged over all clients' images; small batches, so as not to be the peak."""
    net = build_net()
    net.load_state_dict(state)
    total = 0.0
    with torch.no_grad():
        for client in range(CLIENTS):
            for images, labels in zip(*(part.split(40) for part in client_data(client)), strict=True):
                total += float(nn.functional.cross_entropy(net(images), labels, reduction="sum"))
    return round(total / (CLIENTS * IMAGES), 4)
