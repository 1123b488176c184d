"""The parts of transformers that mmmed uses, imported in one place.

transformers resolves its names when they are first asked for. When two threads do so at the same time, as Flower's do
when they load a ServerApp and a ClientApp in one process, one may find a name missing. With one entrance the thread
that comes first loads them, and the others wait for it. `mmmed._monai` comes by here first: MONAI asks for some too.
"""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.audio_utils import mel_filter_bank

__all__ = [
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "BertConfig",
    "BertModel",
    "BertTokenizer",
    "GPT2Config",
    "GPT2LMHeadModel",
    "PreTrainedModel",
    "PreTrainedTokenizerBase",
    "mel_filter_bank",
]
