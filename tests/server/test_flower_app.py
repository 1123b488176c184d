"""What pyproject.toml tells Flower agrees with the project."""

from __future__ import annotations

import io
import tomllib
import zipfile
from pathlib import Path

import tomli_w
from flwr.cli.build import build_fab_from_disk
from flwr.common.config import get_fused_config_from_dir

from mmmed.config import RunConfig, from_flat, to_flat

ROOT = Path(__file__).parents[2]
APP = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]


def test_flowers_run_config_is_the_default_configuration() -> None:
    expected: dict[str, dict[str, object]] = {}
    for dotted, value in to_flat(RunConfig()).items():
        section, key = dotted.split(".", 1)
        expected.setdefault(section, {})[key] = value
    correct = tomli_w.dumps({"tool": {"flwr": {"app": {"config": expected}}}})
    assert APP["config"] == expected, f"pyproject.toml must hold\n{correct}"


def test_flower_reads_it_as_we_do() -> None:
    assert from_flat(get_fused_config_from_dir(ROOT, {})) == RunConfig()
    changed = get_fused_config_from_dir(ROOT, {"privacy.target_epsilon": 2.0})
    assert from_flat(changed).privacy.target_epsilon == 2.0


def test_the_bundle_carries_no_code() -> None:
    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(ROOT))) as bundle:
        names = {name for name in bundle.namelist() if not name.startswith(".info")}
    assert names == {"pyproject.toml", "docs/flower.md"}
