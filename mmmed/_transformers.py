"""The parts of transformers that mmmed uses, imported in one place and after MONAI, which may import it too.

transformers resolves its names when they are first asked for. When two threads do so at the same time, as Flower's do
when they load a ServerApp and a ClientApp in one process, one may find a name missing. With one entrance the thread
that comes first loads them, and the others wait for it (see `mmmed._monai`).
"""

from __future__ import annotations

from mmmed import _monai as _monai  # isort: skip  (before transformers, so that all threads take the same order)
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

__all__ = [
    "AutoModel",
    "AutoTokenizer",
    "BertConfig",
    "BertModel",
    "BertTokenizer",
    "PreTrainedModel",
    "PreTrainedTokenizerBase",
]
