"""Pretrained weights of images and volumes from a local file: plain state dicts, torchvision's, MONAI bundles'."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mmmed.errors import ModelError

State = dict[str, torch.Tensor]

_CLASSIFIERS = (
    "fc.",
    "class_layers.",
    "_fc.",
    "classifier.",
    "head.",
)  # left out: the fusion has its own head
_BUNDLE = ("models/model.safetensors", "models/model.pt")  # in a MONAI bundle, beside configs/
_SWIN_UNETR = "swinViT."  # the encoder, in a whole network
_TORCHVISION_DENSE = re.compile(r"(denselayer\d+)\.(norm|conv)")  # MONAI: denselayer1.layers.norm1


def read_weights(path: Path, key: str = "model.image_weights") -> State:
    """The tensors of a ``.safetensors`` file, a ``.pt`` file of plain tensors or a MONAI bundle, without a classifier.

    Real numbers come in float32, whatever they were saved in. Of a whole SwinUNETR its encoder alone is taken, and what
    was saved from `DataParallel` goes by the names that it has without (`module.conv1` is `conv1`).

    Args:
        path: of the file or folder.
        key: of the configuration, which names it; messages begin with it.

    Raises:
        ModelError: not such a file; pickled code is never run.
    """
    if path.is_dir():
        inside = [path / name for name in _BUNDLE if (path / name).is_file()]
        if not inside:
            raise ModelError(
                f"{key}: {path} is a folder without {' or '.join(_BUNDLE)}. "
                "Expected a weight file or a MONAI bundle"
            )
        path = inside[0]
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        state = cast(State, state.get("state_dict", state))
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        raise ModelError(f"{key}: {path} cannot be read as weights: {error}") from error
    except Exception as error:  # torch.load raises pickle's own errors on foreign content
        raise ModelError(f"{key}: {path} is not a plain tensor file: {error}") from error
    state = {name.removeprefix("module."): value for name, value in state.items()}
    encoder = {name: value for name, value in state.items() if name.startswith(_SWIN_UNETR)}
    return {
        _TORCHVISION_DENSE.sub(r"\1.layers.\2", name): value.float() if value.is_floating_point() else value
        for name, value in (encoder or state).items()
        if not name.startswith(_CLASSIFIERS)
    }


def has_batch_statistics(state: State) -> bool:
    """Whether the weights were trained with BatchNorm."""
    return any(key.endswith(("running_mean", "running_var")) for key in state)


def input_channels(state: State, default: int) -> int:
    """Channels that the first convolution reads."""
    return next((value.shape[1] for value in state.values() if value.ndim == 4), default)


def put(trunk: nn.Module, state: State, path: str, name: str, key: str = "model.image_weights") -> None:
    """Load pretrained weights into a network.

    Args:
        trunk: the network, whose parameters and buffers are overwritten.
        state: its tensors by name, as `read_weights` gives them.
        path: the file that they come from, for the message.
        name: the network's name in the configuration, for the message.
        key: that names the file.

    Raises:
        ModelError: a name, shape or dtype differs from the network's.
    """
    own = trunk.state_dict()
    different = sorted(own.keys() ^ state.keys()) or [
        tensor for tensor in own if own[tensor].shape != state[tensor].shape
    ]
    for tensor, value in state.items():
        if not different and value.dtype != own[tensor].dtype:
            raise ModelError(
                f"{key}: {path} does not fit {name}: '{tensor}' must hold {own[tensor].dtype}. Found "
                f"{value.dtype}: save the weights as they were before they were quantised"
            )
    if different:
        first = different[0]
        wanted, found = (tuple(part[first].shape) if first in part else "absent" for part in (own, state))
        raise ModelError(
            f"{key}: {path} does not fit {name} ({len(different)} entries differ): "
            f"'{first}' must be {wanted}. Found {found}"
        )
    trunk.load_state_dict(state)
