"""Attempts to break into a federation during a soak. Each returns whether it was let in."""

from __future__ import annotations

import ssl
import tempfile
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import httpx
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from mmmed.pki.certificates import create_key, load_key
from server.deployment.authority import Authority
from simulations.loopback.federation import Federation

_PULL = "/v1/fleet/pull-messages"


def _ask(
    federation: Federation,
    shows: tuple[Path, Path] | None,
    path: str = _PULL,
    headers: Mapping[str, str] | None = None,
) -> bool:
    """POST to the published port; returns whether the answer is no refusal. A back end that is down counts as one."""
    coordinator = federation.coordinator
    context = ssl.create_default_context(cafile=str(coordinator.folder / "server-ca.crt"))
    if shows is not None:
        context.load_cert_chain(*shows)
    body = PullMessagesRequest(node=Node(node_id=1)).SerializeToString()
    sent = {"content-type": "application/protobuf", **(headers or {})}
    try:
        with httpx.Client(verify=context, timeout=5.0, trust_env=False) as client:
            answer = client.post(f"https://localhost:{coordinator.port}{path}", headers=sent, content=body)
    except httpx.HTTPError:
        return False
    return answer.status_code < 400


def _with(federation: Federation, authority: Authority | None, days: float) -> bool:
    """Connect with a certificate for a site's name and another key, issued by `authority` or by an invented one."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        key = create_key(folder / "key")
        if authority is None:
            authority = Authority(folder)
            authority.create("localhost")
        certificate = authority.issue_site(key.public_key(), federation.sites[0].name, days)
        (folder / "crt").write_bytes(certificate)
        return _ask(federation, (folder / "crt", folder / "key"))


def _replay(federation: Federation) -> bool:
    """Send again, with the site's own certificate, a request that the site signed ten minutes ago."""
    node = federation.sites[0].node
    key = load_key(node.key)
    stamp = (now() - timedelta(minutes=10)).isoformat()
    headers = {
        FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public_key_to_bytes(key.public_key())).decode(),
        TIMESTAMP_HEADER: stamp,
        FLEET_HTTP_SIGNATURE_HEADER: b64encode(sign_message(key, stamp.encode())).decode(),
    }
    return _ask(federation, (node.certificate, node.key), headers=headers)


def _own(federation: Federation) -> tuple[Path, Path]:
    node = federation.sites[0].node
    return node.certificate, node.key


INTRUSIONS: Mapping[str, Callable[[Federation], bool]] = {
    "no certificate": lambda federation: _ask(federation, None),
    "another authority": lambda federation: _with(federation, None, 1.0),
    "expired certificate": lambda federation: _with(
        federation, Authority(federation.coordinator.folder / "ca"), -1.0
    ),
    "not on the list": lambda federation: _with(
        federation, Authority(federation.coordinator.folder / "ca"), 1.0
    ),
    "replayed request": _replay,
    "site starts a run": lambda federation: _ask(federation, _own(federation), "/v1/control/start-run"),
    "site takes a task": lambda federation: _ask(federation, _own(federation), "/v1/runtime/acquire-task"),
}
