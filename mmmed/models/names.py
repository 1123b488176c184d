"""What a run's model is called: in a site's policy and, in words, in a report."""

from __future__ import annotations

from collections.abc import Callable

from mmmed.config import ModelConfig, RunConfig

_IN_WORDS: dict[str, Callable[[ModelConfig], str]] = {
    "image": lambda model: f"{model.image} for images",
    "text": lambda model: f"{model.text} for text",
    "volume": lambda model: f"3D {model.volume} for volumes",
    "table": lambda model: "one layer for the table's values",
}


def policy_name(config: RunConfig) -> str:
    """The name by which a site's policy allows the model: image encoder, local weights if any, text encoder, and volume
    encoder if there is one. Signed policies hold these names, also for runs without images or without notes.
    """
    model = config.model
    weights = f":{model.image_weights}" if model.image_weights else ""
    volume = f"+3d-{model.volume}" if config.data.volume else ""
    return f"{model.image}{weights}+{model.text}{volume}"


def in_words(config: RunConfig) -> str:
    """What is in the model, in words, such as "resnet10 for images, tiny for text, attention fusion"."""
    encoders = [_IN_WORDS[name](config.model) for name in config.data.modalities]
    return ", ".join([*encoders, f"{config.model.fusion.kind} fusion"])
