"""The app bundle that a run is submitted with. It holds no code: each machine runs what it has installed.

The bundle is the same for every run of one version of mmmed; a run's configuration travels as Flower's override. So
a site's policy can name the bundle by its digest.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib import metadata

import tomli_w
from flwr.cli.build import build_fab_from_files

from mmmed.config import RunConfig, to_flat

FLOWER = metadata.version("flwr")
RUN_FOLDER = "run-folder"  # which of the coordinator's run folders a run uses; empty outside a deployment


@lru_cache(maxsize=1)
def app_bundle() -> bytes:
    """The bundle."""
    flat = {**to_flat(RunConfig()), RUN_FOLDER: ""}
    app = {
        "publisher": "mmmed",
        "components": {"serverapp": "server.app:app", "clientapp": "client.app:app"},
        "config": _nested(flat),
    }
    project = {
        "project": {
            "name": "mmmed",
            "version": metadata.version("mmmed"),
            "dependencies": [f"flwr=={FLOWER}"],
        },
        "tool": {"flwr": {"app": app}},
    }
    bundle, _ = build_fab_from_files({"pyproject.toml": tomli_w.dumps(project).encode()})
    return bytes(bundle)


def app_digest() -> str:
    """The bundle's digest, as a site's policy names it."""
    return f"sha256:{hashlib.sha256(app_bundle()).hexdigest()}"


def _nested(flat: dict[str, bool | int | float | str]) -> dict[str, object]:
    tree: dict[str, object] = {}
    for dotted, value in flat.items():
        section, separator, key = dotted.rpartition(".")
        if separator:
            table = tree.setdefault(section, {})
            assert isinstance(table, dict)
            table[key] = value
        else:
            tree[key] = value
    return tree
