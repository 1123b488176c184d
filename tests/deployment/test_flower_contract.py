"""What we rely on inside Flower. It is pinned exactly: whoever moves the pin sees here what to look at."""

from __future__ import annotations

import inspect
import io
import re
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import pytest
from flwr.superlink.routers.fleet.router import router as fleet
from flwr.supernode import start_client_internal

from client.node.pace import NodeTime
from mmmed.config import from_flat
from mmmed.config.sources import to_json
from server.app_config import RUN_CONFIG, RUN_FOLDER, read_run_config
from server.deployment.bundle import app_bundle, app_digest
from server.deployment.nginx import PUBLISHED

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


_WITH_ONE_MORE_KEY = """
from mmmed.config import schema
from server.deployment.bundle import app_digest

class Training(schema.TrainingConfig):
    one_more: int = 0

field = schema.RunConfig.model_fields["training"]
field.annotation, field.default = Training, Training()
schema.RunConfig.model_rebuild(force=True)
assert "one_more" in schema.RunConfig().model_dump()["training"]
print(app_digest())
"""


def test_a_new_key_with_a_default_leaves_the_digest_as_it_was() -> None:
    """Else each hospital would have to sign its policy again for a key that it never sets."""
    done = subprocess.run([sys.executable, "-c", _WITH_ONE_MORE_KEY], capture_output=True, text=True)
    assert done.stdout.split() == [app_digest()], done.stderr


def test_a_runs_configuration_comes_through_the_bundle_whole() -> None:
    from flwr.common.config import get_fab_config

    from flwr.common.config import flatten_dict, fuse_dicts  # isort: skip

    listed = flatten_dict(get_fab_config(app_bundle())["tool"]["flwr"]["app"]["config"])
    assert listed == {RUN_CONFIG: "", RUN_FOLDER: ""}
    config = from_flat({"federation.rounds": 5, "model.fusion.kind": "linear", "data.where": '{"a": 1}'})
    assert read_run_config(fuse_dicts(listed, {RUN_CONFIG: to_json(config)})) == config


def test_the_node_sleeps_where_we_shorten_it() -> None:
    """`client.node.pace.NodeTime` stands for `time` in this module, and knows these sleeps by their length."""
    source = inspect.getsource(start_client_internal)
    assert re.findall(r"^import time$", source, re.MULTILINE) and "from time" not in source
    assert re.findall(r"(?<!\w)time\.(\w+\([^)]*\))", source) == ["sleep(3)", "sleep(0.5)", "sleep(0.5)"]


def test_a_node_looks_often_for_a_minute_after_a_message_and_rarely_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, slept = [1000.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", slept.append)
    clock = NodeTime()
    clock.sleep(3)
    clock.sleep(0.5)  # a message came and is being answered
    clock.sleep(3)
    now[0] += 59
    clock.sleep(3)
    now[0] += 2
    clock.sleep(3)
    clock.sleep(7)
    assert slept == [3, 0.1, 0.3, 0.3, 3, 7]
    assert clock.perf_counter is time.perf_counter
