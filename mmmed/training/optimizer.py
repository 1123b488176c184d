"""The local optimiser."""

from __future__ import annotations

import torch
from torch import nn

from mmmed.config import TrainingConfig


def make_optimizer(model: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """SGD or Adam over the trainable parameters; a fresh one each round, since its state never travels."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if training.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, training.learning_rate, momentum=training.momentum, weight_decay=training.weight_decay
        )
    return torch.optim.Adam(parameters, training.learning_rate, weight_decay=training.weight_decay)
