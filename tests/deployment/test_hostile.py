"""A coordinator that turned against its hospitals, and a thief with a site's key."""

from __future__ import annotations

import hashlib
import ssl
from base64 import b64encode
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER, TaskType
from flwr.supercore.date import now
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.runtime import RuntimeHttpClient

from client.node.task import app_names
from mmmed.config import RunConfig, to_flat
from mmmed.errors import ConfigError
from mmmed.pki.certificates import load_key
from server.deployment.bundle import RUN_FOLDER
from server.deployment.control import Control
from server.deployment.folder import Folder
from simulations.loopback.processes import wait_for
from tests.deployment.live import TwoHospitals
from tests.deployment.test_coordinator import SiteClient, node_of

pytestmark = pytest.mark.slow


def test_a_hostile_bundle_runs_nothing_at_a_site(federation: TwoHospitals, tmp_path: Path) -> None:
    """It brings its own client app, shadows the installed one, and would read the data and cut the noise."""
    loot = tmp_path / "loot"
    evil = f"import pathlib; pathlib.Path({str(loot)!r}).write_text('ran'); app = None\n"
    server = (
        "from flwr.serverapp import ServerApp\nfrom flwr.app import *\nimport json, time\napp = ServerApp()\n"
        "@app.main()\ndef main(grid, context):\n"
        "    for node in grid.get_node_ids():\n"
        "        config = ConfigRecord({'server-round': 1, 'run-id': 'evil', 'frozen-parts': '{}',\n"
        "                               'run-config': json.dumps(%r)})\n"
        "        content = RecordDict({'arrays': ArrayRecord({}), 'config': config})\n"
        "        grid.push_messages([Message(content, node, 'train')])\n"
        "    time.sleep(20)\n"
    )
    wanted = {**to_flat(RunConfig()), "privacy.enabled": False}
    project = {
        "project": {"name": "mmmed", "version": "9.9.9", "dependencies": []},
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "mmmed",
                    "components": {"serverapp": "evilserver:app", "clientapp": "client.app:app"},
                    "config": {RUN_FOLDER: ""},
                }
            }
        },
    }
    files = {
        "pyproject.toml": tomli_w.dumps(project).encode(),
        "client/__init__.py": evil.encode(),
        "client/app.py": evil.encode(),
        "torch/__init__.py": evil.encode(),
        "sitecustomize.py": evil.encode(),
        "evilserver.py": (server % wanted).encode(),
    }
    bundle, _ = build_fab_from_files(files)
    before = {site.name: len(site.audit()) for site in federation.sites}
    with Control(Folder(federation.coordinator.folder)) as control:
        run = control.start(bundle, {})
        wait_for(
            lambda: all(len(site.audit()) >= before[site.name] + 2 for site in federation.sites),
            "the sites' refusals",
        )
        control.stop(run)
    assert not loot.exists()
    for site in federation.sites:
        asked, sent = site.audit()[-2:]
        assert asked["run"] == "evil" and asked["app"].startswith("sha256:")
        assert sent["decision"] == "policy-refused"
        assert "run.epsilon" in site.refusals()[-1]


def test_the_nodes_tasks_are_for_the_holder_of_the_secret_alone(federation: TwoHospitals) -> None:
    (address,) = {
        word for word in _command(federation.north.runner_process()) if word.startswith("127.0.0.1:")
    }

    def ask(secret: bytes | None) -> int:
        interceptors: list[Any] = [RuntimeVersionHttpInterceptor(component_name="SuperExec")]
        if secret:
            interceptors.append(
                SuperExecAuthHttpInterceptor(
                    master_secret=secret, protected_methods=frozenset({"/flwr.proto.Runtime/AcquireTask"})
                )
            )
        client = RuntimeHttpClient.from_server_address(
            server_address=address, insecure=True, root_certificates=None, interceptors=interceptors
        )
        try:
            client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
        except httpx.HTTPStatusError as error:
            return error.response.status_code
        finally:
            client.close()
        return 200

    assert ask(None) == 401
    assert ask(b"a guess") == 401
    assert ask(federation.north.node.secret.read_bytes()) == 200


def test_a_stolen_key_cannot_take_a_running_sites_place_and_is_shut_out(federation: TwoHospitals) -> None:
    north = federation.north
    thief = SiteClient(federation.coordinator, north.node.key, north.node.certificate)
    with pytest.raises(httpx.HTTPStatusError) as refused:
        thief.activate()
    assert refused.value.response.status_code == 412  # the site itself is online


def test_a_recorded_request_is_no_use_later_or_to_another(federation: TwoHospitals) -> None:
    """What somebody who saw inside TLS could send again: headers that were signed at their time, for their node."""
    north, key = federation.north, load_key(federation.north.node.key)
    context = ssl.create_default_context(cafile=str(north.node.server_ca))
    context.load_cert_chain(north.node.certificate, north.node.key)

    def send(age: float, node: int) -> int:
        stamp = (now() - timedelta(seconds=age)).isoformat()
        headers = {
            "content-type": "application/protobuf",
            FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public_key_to_bytes(key.public_key())).decode(),
            TIMESTAMP_HEADER: stamp,
            FLEET_HTTP_SIGNATURE_HEADER: b64encode(sign_message(key, stamp.encode())).decode(),
        }
        with httpx.Client(verify=context) as client:
            body = PullMessagesRequest(node=Node(node_id=node)).SerializeToString()
            url = f"https://localhost:{federation.coordinator.port}/v1/fleet/pull-messages"
            return client.post(url, headers=headers, content=body).status_code

    own, others = node_of(federation.coordinator, "north"), node_of(federation.coordinator, "south")
    assert send(0, own) == 200
    assert send(600, own) == 401
    assert send(-600, own) == 401
    assert send(0, others) == 401


def test_a_bundles_names_are_its_digest_and_the_signer_whose_signature_holds() -> None:
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    digest = hashlib.sha256(b"bundle").hexdigest()
    signature = f"ed25519:{public}:{key.sign(digest.encode()).hex()}"
    assert app_names(b"bundle", None) == [f"sha256:{digest}"]
    assert app_names(b"bundle", signature) == [f"sha256:{digest}", f"ed25519:{public}"]
    for wrong in (signature[:-2] + "00", "ed25519:xx:yy", "rsa:1:2", "nonsense", 7):
        with pytest.raises(ConfigError, match="app-signature"):
            app_names(b"bundle", wrong)
    with pytest.raises(ConfigError):
        app_names(b"another", signature)


def _command(process: int) -> list[str]:
    return Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0")
