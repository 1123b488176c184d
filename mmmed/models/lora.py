"""Low-rank adapters in a transformer (Hu et al. 2021, arXiv 2106.09685), by peft."""

from __future__ import annotations

import importlib.util

from mmmed._transformers import PreTrainedModel
from mmmed.errors import ModelError
from mmmed.extras import sentence

_MARK = "lora_"  # in the names of peft's parameters


def add_adapters(encoder: PreTrainedModel, rank: int) -> None:
    """Put adapters of `rank` into the attention layers that peft names for this kind of model.

    At first they do nothing. They draw on torch's random state; the layers around them are renamed.

    Raises:
        ModelError: peft is not installed, or knows no attention layers of such a model.
    """
    if importlib.util.find_spec("peft") is None:
        missing = sentence('model.trainable = "lora"', "pretrained", "peft")
        raise ModelError(f"{missing}, or choose another model.trainable")
    from peft import LoraConfig, inject_adapter_in_model

    try:
        turned = encoder.config.model_type == "gpt2"  # whose layers keep their weights transposed
        adapters = LoraConfig(r=rank, lora_alpha=2 * rank, fan_in_fan_out=turned)
        inject_adapter_in_model(adapters, encoder)
    except ValueError as error:
        raise ModelError(
            f"model.text: peft cannot adapt {type(encoder).__name__} ({error}). Choose another model.trainable"
        ) from error


def is_adapter(name: str) -> bool:
    """Whether a parameter's name is an adapter's."""
    return _MARK in name
