"""What pyproject.toml tells Flower agrees with the project."""

from __future__ import annotations

import io
import tomllib
import zipfile
from pathlib import Path

import pytest
import tomli_w
from flwr.cli.build import build_fab_from_disk
from flwr.common.config import get_fused_config_from_dir

from mmmed.config import RunConfig
from mmmed.config.keys import nest
from mmmed.errors import ConfigError
from mmmed.federation.strategies import FedAdam
from mmmed.models.fusion import Attention, Linear
from server.app_config import listed, read_run_config

ROOT = Path(__file__).parents[2]
APP = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]


def test_flowers_run_config_lists_every_key_of_every_kind() -> None:
    expected = nest(listed())
    correct = tomli_w.dumps({"tool": {"flwr": {"app": {"config": expected}}}})
    assert APP["config"] == expected, f"pyproject.toml must hold\n{correct}"


def test_flower_reads_it_as_we_do() -> None:
    def read(**given: bool | int | float | str) -> RunConfig:
        return read_run_config(
            get_fused_config_from_dir(ROOT, {key.replace("__", "."): value for key, value in given.items()})
        )

    assert read() == RunConfig()
    assert read(federation__rounds=5).federation.rounds == 5
    assert read(task__classes='["a", "b", "c"]').task.classes == ("a", "b", "c")
    assert read(model__fusion__kind="linear").model.fusion == Linear()
    assert read(model__fusion__heads=2).model.fusion == Attention(heads=2)
    assert read(federation__strategy__kind="fedadam").federation.strategy == FedAdam()
    one = read(federation__strategy__kind="fedadam", federation__strategy__server_learning_rate=1.0)
    assert one.federation.strategy == FedAdam(server_learning_rate=1.0)
    with pytest.raises(ConfigError, match="'linear', which has no key 'heads'"):
        read(model__fusion__kind="linear", model__fusion__heads=2)


def test_the_bundle_carries_no_code() -> None:
    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(ROOT))) as bundle:
        names = {name for name in bundle.namelist() if not name.startswith(".info")}
    assert names == {"pyproject.toml", "docs/flower.md"}
