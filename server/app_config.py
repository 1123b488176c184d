"""A run's configuration as Flower's run config: what may be set by ``flwr run --run-config``, and what it means.

Flower refuses to set a key that the app does not list, so pyproject.toml lists them all. A key of one kind of a part
is listed as an empty text, which leaves it as that kind has it. A deployed run brings its whole configuration as one
text instead, so that the bundle of the app lists no key (`server.deployment.bundle`).
"""

from __future__ import annotations

from collections.abc import Mapping

from mmmed.config import RunConfig, from_flat, to_flat
from mmmed.config.keys import known_keys, parts
from mmmed.config.schema import Scalar
from mmmed.config.sources import flat_from_json

RUN_CONFIG = "run-config"  # a run's configuration, `mmmed.config.sources.to_json`
RUN_FOLDER = "run-folder"  # which of the coordinator's run folders a run uses; empty outside a deployment
CHECKS = "MMMED_CHECKS"  # environment variable of the server app: the folder of sites' answers to a question
_AS_THE_KIND_HAS_IT = ""


def listed() -> dict[str, Scalar]:
    """The keys and defaults that ``[tool.flwr.app.config]`` of pyproject.toml must list, by dotted key."""
    defaults = to_flat(RunConfig())
    return {key: _AS_THE_KIND_HAS_IT if _of_a_kind(key) else defaults[key] for key in known_keys()}


def read_run_config(settings: Mapping[str, Scalar]) -> RunConfig:
    """The configuration of a run, without the key of its folder.

    Raises:
        ConfigError: unknown key or invalid value.
    """
    given = dict(settings)
    if text := given.pop(RUN_CONFIG, ""):
        return from_flat(flat_from_json(str(text)))
    return from_flat(
        {key: value for key, value in given.items() if value != _AS_THE_KIND_HAS_IT or not _of_a_kind(key)}
    )


def _of_a_kind(key: str) -> bool:
    """Whether a key belongs to one kind of a part."""
    part, _, last = key.rpartition(".")
    return part in parts() and last != "kind"
