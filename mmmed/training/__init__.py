"""Local training and evaluation of one model on one site's records."""

from mmmed.training.loop import PlainStep, Step, part_size, train
from mmmed.training.losses import batch_losses
from mmmed.training.optimizer import make_optimizer

__all__ = ["PlainStep", "Step", "batch_losses", "make_optimizer", "part_size", "train"]
