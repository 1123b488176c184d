"""A running coordinator as hospitals and strangers see it."""

from __future__ import annotations

import contextlib
import http.client
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, PullMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from mmmed.pki.certificates import create_key, load_key, make_request
from mmmed.pki.kit import Kit
from server.deployment.authority import Authority
from server.deployment.control import Control
from server.deployment.folder import Folder
from server.deployment.sites import admit, read_sites
from server.deployment.start import apply_sites
from simulations.loopback.coordinator import Coordinator
from simulations.loopback.processes import children, kill, processes, wait_for


class SiteClient(FleetHttpClient):
    """A SuperNode's client, with a certificate."""

    def __init__(self, coordinator: Coordinator, key_file: Path, certificate: Path | None) -> None:
        context = ssl.create_default_context(cafile=str(coordinator.folder / "server-ca.crt"))
        if certificate is not None:
            context.load_cert_chain(certificate, key_file)
        key = load_key(key_file)
        self.public = key.public_key()
        signs = NodeAuthHttpInterceptor(key, self.public)
        super().__init__(f"https://localhost:{coordinator.port}", interceptors=[signs], verify=context)

    def activate(self) -> int:
        """Log in as a SuperNode does at its start; refused with 412 while an earlier start still counts as online."""
        from flwr.supercore.primitives.asymmetric import public_key_to_bytes

        request = ActivateNodeRequest(public_key=public_key_to_bytes(self.public), heartbeat_interval=10)
        node = int(self.ActivateNode(request).node_id)
        _ACTIVE.append((self, node))
        return node


_ACTIVE: list[tuple[SiteClient, int]] = []


@pytest.fixture(autouse=True)
def _log_out() -> Iterator[None]:
    """No node that was played here stays online for a run to wait for."""
    yield
    while _ACTIVE:
        site, node = _ACTIVE.pop()
        with contextlib.suppress(httpx.HTTPError):
            site.DeactivateNode(DeactivateNodeRequest(node_id=node))


def certificate_of(coordinator: Coordinator, site: str) -> Path:
    path = coordinator.home / f"{site}.certificate"
    path.write_text(Kit.read(coordinator.kit(site)).certificate)
    return path


def client(coordinator: Coordinator, site: str) -> SiteClient:
    return SiteClient(coordinator, coordinator.home / f"{site}.key", certificate_of(coordinator, site))


def node_of(coordinator: Coordinator, site: str) -> int:
    """The SuperLink's id of a site."""
    key = next(entry.public_key for entry in read_sites(Folder(coordinator.folder)) if entry.name == site)
    with Control(Folder(coordinator.folder)) as control:
        return next(node.id for node in control.nodes() if node.public_key == key)


def answers(site: SiteClient, node: int, *not_yet: int) -> bool:
    """Whether the SuperLink answers the site; a status that is not one of `not_yet` is an error."""
    try:
        return site.PullMessages(PullMessagesRequest(node=Node(node_id=node))) is not None
    except httpx.HTTPStatusError as error:
        assert error.response.status_code in not_yet, error.response.text
        return False


def status_of(error: pytest.ExceptionInfo[httpx.HTTPStatusError]) -> int:
    return error.value.response.status_code


def raw(coordinator: Coordinator, path: str, certificate: tuple[Path, Path] | None) -> int:
    """POST to exactly this path, which no client library has tidied."""
    context = ssl.create_default_context(cafile=str(coordinator.folder / "server-ca.crt"))
    if certificate:
        context.load_cert_chain(*certificate)
    connection = http.client.HTTPSConnection("localhost", coordinator.port, context=context, timeout=20)
    try:
        connection.putrequest("POST", path)
        connection.putheader("Content-Type", "application/protobuf")
        connection.putheader("Content-Length", "0")
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


FORBIDDEN = [
    "/v1/control/list-runs",
    "/v1/control/start-run",
    "/v1/control/register-node",
    "/v1/runtime/acquire-task",
    "/v1/fleet/register-node",
    "/v1/fleet/unregister-node",
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/..%2fcontrol%2flist-runs",
    "/v1/fleet//pull-messages/../../control/list-runs",
    "/v1/fleet/pull-messages/",
    "/v1/fleet/pull-messages%00",
    "/V1/FLEET/pull-messages",
    "/docs",
    "/openapi.json",
    "/health",
    "/",
]


@pytest.mark.parametrize("path", FORBIDDEN)
def test_nothing_but_the_fleet_paths_is_published(coordinator: Coordinator, path: str) -> None:
    known = (certificate_of(coordinator, "probe"), coordinator.home / "probe.key")
    assert (
        raw(coordinator, path, None) == 400
    )  # the stranger with the CA certificate, and no certificate of ours
    assert raw(coordinator, path, known) in (400, 404)  # a site, beyond what is its business


def test_a_path_that_leads_back_to_the_fleet_is_only_that(coordinator: Coordinator) -> None:
    known = (certificate_of(coordinator, "probe"), coordinator.home / "probe.key")
    detour = "/v1/control/list-runs/../../fleet/pull-messages"
    assert raw(coordinator, detour, known) == raw(coordinator, "/v1/fleet/pull-messages", known) == 401


def test_a_stranger_cannot_reach_even_the_fleet_paths(coordinator: Coordinator, tmp_path: Path) -> None:
    key = create_key(tmp_path / "stranger.key")
    with pytest.raises(httpx.HTTPStatusError) as refused:
        SiteClient(coordinator, tmp_path / "stranger.key", None).activate()
    assert status_of(refused) == 400
    tmp_path.joinpath("theirs").mkdir()
    theirs = Authority(tmp_path / "theirs")  # a certificate of the same look, by another authority
    theirs.create("localhost")
    tmp_path.joinpath("stranger.crt").write_bytes(theirs.issue_site(key.public_key(), "probe"))
    with pytest.raises((httpx.HTTPStatusError, httpx.TransportError)) as answer:
        SiteClient(coordinator, tmp_path / "stranger.key", tmp_path / "stranger.crt").activate()
    assert not isinstance(answer.value, httpx.HTTPStatusError) or answer.value.response.status_code == 400


def test_an_expired_certificate_is_refused(coordinator: Coordinator, tmp_path: Path) -> None:
    key_file = coordinator.home / "probe.key"
    late = Authority(coordinator.folder / "ca").issue_site(load_key(key_file).public_key(), "probe", days=-1)
    (tmp_path / "late.crt").write_bytes(late)
    with pytest.raises((httpx.HTTPStatusError, httpx.TransportError)) as answer:
        SiteClient(coordinator, key_file, tmp_path / "late.crt").activate()
    assert not isinstance(answer.value, httpx.HTTPStatusError) or answer.value.response.status_code == 400


def test_a_certificate_without_its_key_or_with_anothers_signature_is_no_use(coordinator: Coordinator) -> None:
    site = client(coordinator, "probe")
    node = site.activate()
    south = client(coordinator, "other")
    with pytest.raises(httpx.HTTPStatusError) as refused:  # south's key and certificate, north's node
        south.PullMessages(PullMessagesRequest(node=Node(node_id=node)))
    assert status_of(refused) == 401


def test_a_site_that_is_listed_connects_and_shows_as_online(coordinator: Coordinator) -> None:
    site = client(coordinator, "other")
    node = site.activate()
    assert not site.PullMessages(PullMessagesRequest(node=Node(node_id=node))).messages_list
    assert any(line.startswith("other") and "online" in line for line in coordinator("status").splitlines())


def test_revoking_takes_effect_at_once_and_for_ever(coordinator: Coordinator) -> None:
    site = client(coordinator, "gone")
    node = site.activate()
    coordinator("revoke", "gone")
    with pytest.raises(httpx.HTTPStatusError) as refused:  # on the connection that is open
        site.PullMessages(PullMessagesRequest(node=Node(node_id=node)))
    assert status_of(refused) == 401
    with pytest.raises(httpx.HTTPStatusError) as refused:  # and on a new one
        client(coordinator, "gone").activate()
    assert status_of(refused) in (
        401,
        412,
    )  # nginx's answer, or the SuperLink's should nginx be reloading yet
    told = coordinator("add-site", "gone", coordinator.home / "gone.request", check=False)
    assert "was revoked" in told


def test_a_site_joins_a_running_federation(coordinator: Coordinator) -> None:
    request = coordinator.home / "later.request"
    request.write_bytes(make_request(create_key(coordinator.home / "later.key"), "later"))
    coordinator("add-site", "later", request)

    def connects() -> bool:  # nginx takes the new list within a moment
        try:
            return bool(client(coordinator, "later").activate())
        except httpx.HTTPStatusError as error:
            assert error.response.status_code == 401
            return False

    wait_for(connects, "the new site")


def test_twelve_sites_are_admitted_and_join_at_once(
    coordinator: Coordinator, request_of: Callable[..., Path], tmp_path: Path
) -> None:
    folder, names = Folder(coordinator.folder), [f"site-{number}" for number in range(12)]
    requests = [request_of(name) for name in names]
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda request: admit(folder, request), requests))
        assert {site.name for site in read_sites(folder)} >= set(names)  # no entry was lost
        assert apply_sites(folder)
        clients = [
            SiteClient(coordinator, tmp_path / f"{name}.key", certificate_of(coordinator, name))
            for name in names
        ]
        nodes = list(pool.map(joins, clients))
        assert len(set(nodes)) == 12
        assert all(pool.map(answers, clients, nodes))
    assert sum(
        "online" in line for line in coordinator("status").splitlines() if line.startswith("site-")
    ) == len(names)


def joins(site: SiteClient) -> int:
    """Activate as soon as nginx has taken up the certificate, as a node that tries again."""
    found: list[int] = []

    def there() -> bool:
        try:
            found.append(site.activate())
        except (httpx.HTTPStatusError, httpx.TransportError):
            return False
        return True

    wait_for(there, "a site to join")
    return found[0]


def test_a_superlink_that_is_down_answers_so_that_sites_try_again_and_comes_back(
    coordinator: Coordinator,
) -> None:
    site, node = client(coordinator, "later"), node_of(coordinator, "later")
    wait_for(lambda: answers(site, node, 401), "every nginx worker to know the new site")
    killed = coordinator.process("flower-superlink")
    kill(killed)
    later = (502, 503, 504)  # what a SuperNode takes for "later"
    assert not answers(site, node, *later)
    wait_for(
        lambda: processes("flower-superlink", str(coordinator.folder)) not in ([], [killed]), "a restart"
    )
    wait_for(lambda: answers(site, node, *later), "the SuperLink")


def test_an_nginx_that_is_killed_is_replaced_whole(coordinator: Coordinator) -> None:
    """Its worker too: it holds the port, and would let in whoever is revoked from then on."""
    site, node = client(coordinator, "later"), node_of(coordinator, "later")
    killed = coordinator.process("nginx: master")
    workers = children(killed)
    kill(killed)

    def answered_by_another() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return coordinator.process("nginx: master") not in (None, killed) and answers(site, node)
        return False

    wait_for(answered_by_another, "another nginx")
    assert workers and not set(workers) & set(processes("nginx: worker"))


def test_one_folder_runs_once(coordinator: Coordinator) -> None:
    assert "running already" in coordinator("start", check=False)


def test_what_the_user_can_mend_is_told_without_a_traceback(coordinator: Coordinator, tmp_path: Path) -> None:
    for arguments, text in (
        (("log", "nope"), "no run 'nope'"),
        (("stop", "nope"), "no run 'nope'"),
        (("run", "--set", "federation.rounds=many"), "federation.rounds"),
        (("revoke", "nobody"), "no site 'nobody'"),
        (("status", "--folder", tmp_path), "holds no federation"),
        (("add-site", "x", tmp_path / "none"), "cannot be read"),
    ):
        told = coordinator(*arguments, check=False)
        assert text in told
        assert "Traceback" not in told
