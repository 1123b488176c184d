"""The model that trains least: what a small cohort learns most with, since noise grows with the trained parameters."""

from __future__ import annotations

import tomllib

from mmmed.config import RunConfig
from mmmed.modalities import MODALITIES


def linear_head(config: RunConfig) -> dict[str, str]:
    """The keys that train one linear layer, on encoders that have learnt elsewhere where there are any.

    Encoders for which mmmed knows no weights stay trained: frozen at random they would tell nothing.

    Returns:
        The value of each key by its dotted name, ``model.fusion.kind`` among them.
    """
    keys: dict[str, str] = {}
    modalities = [MODALITIES[name] for name in config.data.modalities]
    for one in modalities:
        if one.pretrained and one.from_scratch(config.model):
            keys |= {f"model.{key}": value for key, value in tomllib.loads(one.pretrained)["model"].items()}
    keys["model.fusion.kind"] = "linear"
    given = [one for one in modalities if not one.joins_fusion]
    if given and all(one.pretrained or not one.from_scratch(config.model) for one in given):
        keys["model.trainable"] = "fusion-head"
    return keys
