"""RunConfig: everything the members of a consortium agree on before a run, as one frozen tree.

`schema` defines the tree, `sources` reads it from TOML, ``--set key=value`` and Flower's flat run config
and remembers which source set each key.
"""

from mmmed.config.schema import (
    DataConfig,
    FederationConfig,
    ModelConfig,
    PrivacyConfig,
    RunConfig,
    TaskConfig,
    TrainingConfig,
)
from mmmed.config.sources import ResolvedConfig, from_flat, resolve, to_flat, to_toml

__all__ = [
    "DataConfig",
    "FederationConfig",
    "ModelConfig",
    "PrivacyConfig",
    "ResolvedConfig",
    "RunConfig",
    "TaskConfig",
    "TrainingConfig",
    "from_flat",
    "resolve",
    "to_flat",
    "to_toml",
]
