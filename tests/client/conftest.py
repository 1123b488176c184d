from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.simulated import open_simulated, simulated_manifest
from client.site import Site
from mmmed.config import RunConfig
from simulations.loopback.hospital import Hospital


@pytest.fixture
def configured(hospitals: Path) -> Callable[..., RunConfig]:
    def build(**sections: Any) -> RunConfig:
        tree: dict[str, dict[str, Any]] = {
            "data": {"source": str(hospitals), "image_size": 32, "text_tokens": 16},
            "model": {"image_width": 8, "fusion": {"width": 16}},
            "training": {"batch_size": 8, "local_epochs": 1.0, "augment": False},
            "privacy": {"delta": 1e-3},
        }
        for name, values in sections.items():
            tree[name] = tree.get(name, {}) | values
        return RunConfig.model_validate(tree)

    return build


@pytest.fixture
def site(configured: Callable[..., RunConfig], tmp_path: Path) -> Site:
    config = configured()
    manifest = simulated_manifest(config)
    return open_simulated(manifest.of_site(manifest.sites[0]), config, tmp_path / "state")


@pytest.fixture
def hospital(tmp_path: Path, hospitals: Path) -> Hospital:
    return Hospital(tmp_path / "north", hospitals)
