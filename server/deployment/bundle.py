"""The app bundle that a run is submitted with. It holds no code: each machine runs what it has installed.

The bundle is the same for every run of one version of mmmed, whatever keys a configuration has: a run's configuration
travels as one text in Flower's override. So a site's policy can name the bundle by its digest.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib import metadata

import tomli_w
from flwr.cli.build import build_fab_from_files

from server.app_config import RUN_CONFIG, RUN_FOLDER

FLOWER = metadata.version("flwr")


@lru_cache(maxsize=1)
def app_bundle() -> bytes:
    """The application bundle (Flower's FAB) that runs are started with; it holds no code."""
    app = {
        "publisher": "mmmed",
        "components": {"serverapp": "server.app:app", "clientapp": "client.app:app"},
        "config": {RUN_CONFIG: "", RUN_FOLDER: ""},
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
    """The application bundle's digest, ``sha256:<hex>``, by which a site's policy names it."""
    return f"sha256:{hashlib.sha256(app_bundle()).hexdigest()}"
