"""Keys of earlier versions: what they are called now. Files, run folders and messages that use them are still read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmmed.config.keys import known_keys
from mmmed.errors import ConfigError

RENAMED = {
    "model.fusion": ("model.fusion.kind",),
    "model.fusion_dim": ("model.fusion.width",),
    "model.fusion_heads": ("model.fusion.heads",),
    "model.fusion_layers": ("model.fusion.layers",),
    "model.dropout": ("model.text_dropout", "model.fusion.dropout"),
    "federation.strategy": ("federation.strategy.kind",),
    "federation.server_learning_rate": ("federation.strategy.server_learning_rate",),
    "federation.aggregation": ("federation.aggregation.kind",),
    "federation.hostile_sites": ("federation.aggregation.hostile_sites",),
}
_UNSET = {"federation.server_learning_rate": 0, "federation.hostile_sites": 0}  # meant: not set
_OF_ANY_FUSION = ("model.fusion_dim", "model.fusion_heads", "model.fusion_layers", "model.dropout")


def current(key: str) -> tuple[str, ...]:
    """What a key is called now: itself, unless it is of an earlier version."""
    return RENAMED.get(key, (key,))


def renew(given: Mapping[str, Any], earlier: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What one source gives, under the names of today.

    An earlier version took the keys of attention with any fusion; those that the chosen one lacks are dropped.

    Args:
        given: by dotted key.
        earlier: what earlier sources gave, which may choose a kind.
        source: names the source in an error.

    Raises:
        ConfigError: an old and a new key are both given and disagree.
    """
    renewed = {key: value for key, value in given.items() if key not in RENAMED}
    for old in filter(given.__contains__, RENAMED):
        value = given[old]
        if value == _UNSET.get(old):
            continue
        for new in RENAMED[old]:
            if given.get(new, value) != value:
                raise ConfigError(
                    f"{source}: {old} = {value!r} and {new} = {given[new]!r} disagree. {old} is a name of earlier "
                    "versions: leave it out"
                )
            renewed[new] = value
    applicable = known_keys({**earlier, **renewed})
    inert = {new for old in _OF_ANY_FUSION if old in given for new in RENAMED[old] if new not in given}
    return {key: value for key, value in renewed.items() if key in applicable or key not in inert}
