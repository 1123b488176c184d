"""What we rely on inside Flower. It is pinned exactly: whoever moves the pin sees here what to look at."""

from __future__ import annotations

import io
import tomllib
import zipfile
from pathlib import Path

from flwr.superlink.routers.fleet.router import router as fleet

from mmmed.config import RunConfig, from_flat
from server.deploy.bundle import RUN_FOLDER, app_bundle, app_digest
from server.deploy.nginx import PUBLISHED

ROOT = Path(__file__).parents[2]


def test_flower_is_pinned_to_the_version_we_know() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "flwr==1.41.0" in project["dependencies"]


def test_the_published_paths_are_the_fleet_interface_without_registration() -> None:
    served = {route.path.removeprefix("/v1/fleet/") for route in fleet.routes}  # type: ignore[attr-defined]
    assert served - set(PUBLISHED) == {"register-node", "unregister-node"}
    assert set(PUBLISHED) <= served


def test_the_bundle_holds_one_toml_file_and_no_code() -> None:
    with zipfile.ZipFile(io.BytesIO(app_bundle())) as bundle:
        assert set(bundle.namelist()) == {"pyproject.toml", ".info/CONTENT"}


def test_the_bundle_is_the_same_every_time() -> None:
    first = app_digest()
    app_bundle.cache_clear()
    assert app_digest() == first


def test_flower_reads_the_bundles_configuration_as_ours() -> None:
    from flwr.common.config import get_fab_config

    from flwr.common.config import flatten_dict  # isort: skip

    config = flatten_dict(get_fab_config(app_bundle())["tool"]["flwr"]["app"]["config"])
    assert config.pop(RUN_FOLDER) == ""
    assert from_flat(config) == RunConfig()
