"""Image encoder | text encoder -> fusion -> classification head, built from one RunConfig."""

from mmmed.models.build import build_model, set_trainable, trainable_state
from mmmed.models.frozen import check_frozen, frozen_digests
from mmmed.models.multimodal import MultimodalModel
from mmmed.models.precomputed import FrozenEncoders
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
    "trainable_state",
]
