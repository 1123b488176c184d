"""A trained model on disk: ``model.safetensors``, ``config.toml`` and, with it, all that prediction needs."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mmmed.config import RunConfig, resolve, to_toml
from mmmed.errors import ModelError
from mmmed.files import sha256_of
from mmmed.models.build import build_model
from mmmed.models.multimodal import MultimodalModel

WEIGHTS = "model.safetensors"
CONFIG = "config.toml"
FINAL = "model"  # folder of the final model, in that of its run


def save_model(folder: Path, model: MultimodalModel, config: RunConfig) -> None:
    """Write all parameters and the configuration they belong to."""
    folder.mkdir(parents=True, exist_ok=True)
    # A copy a tensor: tied parameters share storage, which the format refuses.
    save_file({name: value.detach().clone() for name, value in model.state_dict().items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(to_toml(config), encoding="utf-8")


def load_model(folder: Path) -> tuple[MultimodalModel, RunConfig]:
    """Read a model that `save_model` wrote, in evaluation mode.

    Args:
        folder: of the model, or of the run whose final model it is.

    Raises:
        ModelError: a file is missing, damaged, or the two do not belong together.
    """
    folder = _final(folder)
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: no {name}. Expected the model folder of a finished run")
    config = resolve(folder / CONFIG).config
    model = build_model(config)
    try:
        state = load_file(folder / WEIGHTS)
        model.load_state_dict(state)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ModelError(
            f"{folder / WEIGHTS} does not hold the model of {folder / CONFIG}: {error}"
        ) from error
    return model.eval(), config


def weights_digest(folder: Path) -> str:
    """16 hexadecimal digits of the SHA-256 of a model's weights; arguments as of `load_model`."""
    return sha256_of(_final(folder) / WEIGHTS)[:16]


def _final(folder: Path) -> Path:
    return folder / FINAL if (folder / FINAL).is_dir() else folder
