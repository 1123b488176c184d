"""Image encoder | text encoder -> fusion -> classification head, built from one RunConfig.

What is named here is imported when it is used: a configuration reads the registry of `mmmed.models.fusion` without
torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmmed.models.build import build_model, set_trainable, trainable_state
    from mmmed.models.frozen import check_frozen, frozen_digests
    from mmmed.models.multimodal import MultimodalModel
    from mmmed.models.precomputed import FrozenEncoders
    from mmmed.models.start import start_from
    from mmmed.models.store import load_model, save_model
    from mmmed.models.tokens import load_tokenizer

__all__ = [
    "FrozenEncoders",
    "MultimodalModel",
    "build_model",
    "check_frozen",
    "frozen_digests",
    "load_model",
    "load_tokenizer",
    "save_model",
    "set_trainable",
    "start_from",
    "trainable_state",
]

_MODULES = {
    "FrozenEncoders": "precomputed",
    "MultimodalModel": "multimodal",
    "build_model": "build",
    "check_frozen": "frozen",
    "frozen_digests": "frozen",
    "load_model": "store",
    "load_tokenizer": "tokens",
    "save_model": "store",
    "set_trainable": "build",
    "start_from": "start",
    "trainable_state": "build",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
