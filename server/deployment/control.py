"""What the coordinator asks of its own SuperLink, over Flower's Control API on the loopback address."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

import httpx
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    StreamLogsRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from mmmed.config.schema import Scalar
from mmmed.errors import DeployError
from server.deployment.folder import Folder

_FULL = 1e7  # bytes free below which a server error is a full disk


@dataclass(frozen=True)
class Node:
    """A site's node as the SuperLink knows it; `online` while its heartbeats come."""

    id: int
    public_key: str
    online: bool


@dataclass(frozen=True)
class FlowerRun:
    """A run as the SuperLink knows it: ``pending``, ``running``, ``finished:completed``, ``finished:failed``, ..."""

    id: int
    status: str
    details: str
    bytes_sent: int
    bytes_received: int

    @property
    def active(self) -> bool:
        return not self.status.startswith("finished")


class Control:
    """An open connection to the federation's SuperLink; a context manager.

    Every method raises DeployError if the SuperLink does not answer or refuses.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._where = f"127.0.0.1:{folder.settings.link_port}"
        self._client = ControlHttpClient.from_server_address(
            self._where,
            False,
            folder.ca_certificate.read_bytes(),
            [RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )

    def __enter__(self) -> Control:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def nodes(self) -> list[Node]:
        """The nodes that are registered at the SuperLink."""
        with self._errors():
            reply = self._client.ListNodes(ListNodesRequest())
        return [
            Node(node.node_id, node.public_key.decode(), node.status == "online")
            for node in reply.nodes_info
            if node.status != "unregistered"
        ]

    def register(self, public_key: str, name: str) -> bool:
        """Let the holder of a key connect. False if the key was unregistered before: it cannot be used again."""
        try:
            self._client.RegisterNode(RegisterNodeRequest(public_key=public_key.encode(), name=name))
        except httpx.HTTPStatusError as error:
            told = FlowerError.from_json(error.response.text)
            if told is not None and told.code == ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE:
                return False
            raise self._refused(error) from error
        except httpx.HTTPError as error:
            raise self._silent() from error
        return True

    def unregister(self, node: int) -> None:
        """Refuse connections of a node from now on."""
        with self._errors():
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=node))

    def start(self, bundle: bytes, overrides: Mapping[str, Scalar]) -> int:
        """Start a run; returns Flower's id of it."""
        fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        with self._errors():
            reply = self._client.StartRun(
                StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto(dict(overrides)))
            )
        if not reply.HasField("run_id"):
            raise DeployError("the SuperLink did not start the run. Its log tells why")
        return int(reply.run_id)

    def runs(self) -> dict[int, FlowerRun]:
        """The newest 100 runs, by Flower's id."""
        with self._errors():
            reply = self._client.ListRuns(ListRunsRequest(limit=100))
        runs = {}
        for number, run in reply.run_dict.items():
            status = ":".join(part for part in (run.status.status, run.status.sub_status) if part)
            runs[number] = FlowerRun(number, status, run.status.details, run.bytes_sent, run.bytes_recv)
        return runs

    def stop(self, run: int) -> None:
        """Stop the run of this Flower id."""
        with self._errors():
            self._client.StopRun(StopRunRequest(run_id=run))

    def log(self, run: int) -> Iterator[str]:
        """Yield the log of a run's server app until the run ends."""
        with self._errors():
            for part in self._client.StreamLogs(StreamLogsRequest(run_id=run, after_timestamp=0.0)):
                yield part.log_output

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPStatusError as error:
            raise self._refused(error) from error
        except httpx.HTTPError as error:
            raise self._silent() from error

    def _silent(self) -> DeployError:
        return DeployError(
            f"the SuperLink does not answer at {self._where}. Start it with `mmmed server start`"
        )

    def _refused(self, error: httpx.HTTPStatusError) -> DeployError:
        free = shutil.disk_usage(self._folder.path).free
        if error.response.status_code >= 500 and free < _FULL:
            return DeployError(
                f"{self._folder.path}: the disk is full ({free / 1e6:.1f} MB free), so the SuperLink cannot write. "
                "Free some space, and repeat the command"
            )
        told = FlowerError.from_json(error.response.text)
        return DeployError(f"the SuperLink refused: {told.message if told else error.response.status_code}")
