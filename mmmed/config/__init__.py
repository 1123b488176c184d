"""RunConfig: everything the members of a consortium agree on before a run, as one frozen tree.

`schema` defines the tree, `sources` reads it from TOML, ``--set key=value`` and Flower's flat run config
and remembers which source set each key, `vary` makes many of one.
"""

from mmmed.config.schema import (
    DataConfig,
    FederationConfig,
    ModelConfig,
    PrivacyConfig,
    RunConfig,
    TrainingConfig,
)
from mmmed.config.sources import ResolvedConfig, differences, from_flat, resolve, to_flat, to_toml
from mmmed.config.vary import Candidate, combinations, parse_vary

__all__ = [
    "Candidate",
    "DataConfig",
    "FederationConfig",
    "ModelConfig",
    "PrivacyConfig",
    "ResolvedConfig",
    "RunConfig",
    "TrainingConfig",
    "combinations",
    "differences",
    "from_flat",
    "parse_vary",
    "resolve",
    "to_flat",
    "to_toml",
]
