from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.simulated import open_simulated, simulated_manifest
from client.site import Site
from mmmed.config import RunConfig
from privacy.keys import public_pem
from privacy.policy import sign_policy


@pytest.fixture
def configured(hospitals: Path) -> Callable[..., RunConfig]:
    def build(**sections: Any) -> RunConfig:
        tree: dict[str, dict[str, Any]] = {
            "data": {"source": str(hospitals), "image_size": 32, "text_tokens": 16},
            "model": {"image_width": 8, "fusion_dim": 16},
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


class Hospital:
    """A deployed site's folder over one of the generated hospitals, and its privacy officer."""

    def __init__(self, path: Path, hospitals: Path) -> None:
        self.path = path
        self.officer, self.second = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        self.site: dict[str, Any] = {
            "version": 1,
            "name": "north",
            "dataset": str(hospitals),
            "table": "data.csv",
            "where": {"site": sorted(pd.read_csv(hospitals / "data.csv")["site"].unique())[0]},
        }
        self.rules: dict[str, Any] = {
            "version": 1,
            "site": "north",
            "expires": date(2099, 12, 31),
            "unit": "patient",
            "adjacency": "add_remove",
            "limit": {"epsilon": 12.0, "delta": 1e-3},
            "period": {"days": 365, "epsilon": 12.0, "delta": 1e-3},
            "run": {
                "epsilon": 8.0,
                "delta": 1e-3,
                "min_noise_multiplier": 0.3,
                "min_patients": 5,
                "max_records_per_patient": 2,
                "models": ["resnet10+tiny"],
                "trainable": ["full"],
                "apps": ["installed"],
                "columns": ["finding", "image", "text"],
            },
            "evaluation": {"min_patients": 3},
            "purposes": {"training": 12.0, "evaluation": 2.0},
            "metrics": {"auroc": "private", "calibration": "private"},
        }
        path.mkdir()
        (path / "officer.pub").write_text(public_pem(self.officer.public_key()))
        (path / "second-officer.pub").write_text(public_pem(self.second.public_key()))
        self.write_site()
        self.sign()

    @property
    def state(self) -> Path:
        return self.path / "state"

    def write_site(self, **changes: Any) -> None:
        """Write site.toml with these keys changed."""
        self.site |= changes
        (self.path / "site.toml").write_text(tomli_w.dumps(self.site))

    def sign(self, *, by_two: bool = False, **changes: Any) -> None:
        """Write and sign the policy with these rules changed, ``section__key`` or ``key``."""
        for name, value in changes.items():
            section, _, key = name.rpartition("__")
            (self.rules[section] if section else self.rules)[key] = value
        policy = self.path / "site-policy.toml"
        policy.write_text(tomli_w.dumps(self.rules))
        sign_policy(policy, self.officer, self.second if by_two else None)


@pytest.fixture
def hospital(tmp_path: Path, hospitals: Path) -> Hospital:
    return Hospital(tmp_path / "north", hospitals)
