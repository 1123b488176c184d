"""What a run's model is called: in a site's policy and, in words, in a report. Each modality names itself."""

from __future__ import annotations

from mmmed.config import RunConfig
from mmmed.modalities import MODALITIES
from mmmed.modalities.image import ImageModel
from mmmed.modalities.table import TableModel
from mmmed.modalities.text import TextModel
from mmmed.modalities.volume import VolumeModel

_OF_FORMER_NAMES = frozenset({"image", "text", "volume", "table"})  # no other modality ever had a former name

_ORDINARY = 4  # times the default size


def policy_name(config: RunConfig) -> str:
    """The name by which a site's policy allows the model: what is in it, such as "3d-resnet10+table"."""
    labels = [MODALITIES[name].label(config.model) for name in config.data.modalities]
    labels += filter(None, [config.task.model_label])
    # a path must not read as one modality more
    return "+".join(label.replace("%", "%25").replace("+", "%2B") for label in [*labels, *_large(config)])


def former_policy_name(config: RunConfig) -> str | None:
    """What the model was called in policies that were signed before; None for one that there was not.

    Image encoder, local weights if any, text encoder, and volume encoder if there is one: also of runs without images
    or without notes. A policy that lists it goes on to allow the model.
    """
    if not _OF_FORMER_NAMES.issuperset(config.data.modalities) or _large(config) or config.task.model_label:
        return None
    image, text = config.model.of(ImageModel), config.model.of(TextModel)
    weights = f":{image.image_weights}" if image.image_weights else ""
    if "table" in config.data.modalities and config.model.of(TableModel).table != "linear":
        return None  # a former name says nothing of the table, which had one encoder
    if config.model.of(VolumeModel).volume_weights:
        return None  # nor of weights of volumes, which always started from scratch
    volume = f"+3d-{config.model.of(VolumeModel).volume}" if "volume" in config.data.modalities else ""
    return f"{image.image}{weights}+{text.text}{volume}"


def in_words(config: RunConfig) -> str:
    """What is in the model, in words, such as "resnet10 for images, tiny for text, attention fusion"."""
    encoders = [MODALITIES[name].in_words(config.model) for name in config.data.modalities]
    return ", ".join(
        [*encoders, f"{config.model.fusion.kind} fusion", *filter(None, [config.task.model_label])]
    )


def _large(config: RunConfig) -> list[str]:
    """The sizes of what follows the encoders that are no longer those of the model by its encoders' names.

    An attention of width 2048 has more parameters than any encoder: a policy that allows the encoders names it, as
    "resnet10+tiny+width:2048", or does not allow it.
    """
    fusion = config.model.fusion
    sizes = {name: (getattr(fusion, name), one.default) for name, one in type(fusion).model_fields.items()}
    sizes |= {"lora_rank": (config.model.lora_rank, type(config.model).model_fields["lora_rank"].default)}
    whole = {
        name: (value, usual) for name, (value, usual) in sizes.items() if type(value) is type(usual) is int
    }
    return [
        f"{name}:{value}"
        for name, (value, usual) in sorted(whole.items())
        if value > _ORDINARY * max(1, usual)
    ]
