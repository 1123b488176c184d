"""What a run's model is called: in a site's policy and, in words, in a report. Only what is in the model is named."""

from __future__ import annotations

from collections.abc import Callable

from mmmed.config import ModelConfig, RunConfig

_IN_POLICY: dict[str, Callable[[ModelConfig], str]] = {
    "image": lambda model: model.image + (f":{model.image_weights}" if model.image_weights else ""),
    "text": lambda model: model.text,
    "volume": lambda model: f"3d-{model.volume}",
}
_IN_WORDS: dict[str, Callable[[ModelConfig], str]] = {
    "image": lambda model: f"{model.image} for images",
    "text": lambda model: f"{model.text} for text",
    "volume": lambda model: f"3D {model.volume} for volumes",
    "table": lambda model: "one layer for the table's values",
}


def policy_name(config: RunConfig) -> str:
    """The name by which a site's policy allows the model: the encoders that a run can choose, such as "resnet10+tiny".

    A table has one encoder, a single layer, and its columns have a rule of their own: it is named if alone.
    """
    chosen = [_IN_POLICY[name](config.model) for name in config.data.modalities if name in _IN_POLICY]
    return "+".join(chosen) or "table"


def in_words(config: RunConfig) -> str:
    """The model in words, such as "resnet10 for images, tiny for text, attention fusion"."""
    encoders = [_IN_WORDS[name](config.model) for name in config.data.modalities]
    return ", ".join([*encoders, f"{config.model.fusion.kind} fusion"])
