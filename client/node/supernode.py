"""The process that talks to the coordinator: Flower's SuperNode, mended in five places.

1. It shows the site's certificate, so that the coordinator's nginx knows it (mutual TLS).
2. A hiccup in a TLS handshake is tried again. Flower gives up for ever on any error whose text has "ssl" in it.
3. When its loop or one of its threads ends, so does the process, and its supervisor starts it anew. Flower's stays
   alive without ever connecting again.
4. Its heart beats every few seconds, so that a site that was killed is missed after 20 s and not after 60.
5. For a minute after a message it looks for the next one often, so that a run of single steps does not wait for it.

It never runs anybody's code: with ``--isolation process`` it hands its tasks to whoever knows the runner's secret.
"""

from __future__ import annotations

import os
import ssl
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import httpx
from flwr.supercore import heartbeat
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.retry import RetryInvoker, make_simple_http_retry_invoker
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.cli import flower_supernode
from flwr.supernode.fleet_http_client import FleetHttpClient

from client.node.pace import NodeTime

HEARTBEAT = 10  # seconds; Flower counts a node as lost after two
ENDED = 75  # exit code of a node whose connection ended


def main(certificate: Path, key: Path, arguments: Sequence[str]) -> None:
    """Run a SuperNode that shows `certificate`; `arguments` are ``flower-supernode``'s. Does not return."""
    fleet_http_connection.FleetHttpClient = _with_certificate(certificate, key)  # type: ignore[misc]
    fleet_http_connection.make_simple_http_retry_invoker = _patient_invoker
    fleet_http_connection.HEARTBEAT_DEFAULT_INTERVAL = HEARTBEAT
    heartbeat.HEARTBEAT_DEFAULT_INTERVAL = HEARTBEAT
    start_client_internal.time = NodeTime()  # type: ignore[assignment]
    threading.excepthook = _end
    sys.argv = ["flower-supernode", *arguments]
    try:
        flower_supernode()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else ENDED
    except BaseException:
        traceback.print_exc()
        code = ENDED
    else:
        code = ENDED
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _with_certificate(certificate: Path, key: Path) -> type[FleetHttpClient]:
    class CertifiedClient(FleetHttpClient):
        @classmethod
        def from_server_address(
            cls,
            server_address: str,
            insecure: bool,
            root_certificates: bytes | str | None,
            interceptors: Sequence[ProtobufClientInterceptor],
            *,
            retry_invoker: RetryInvoker | None = None,
        ) -> Self:
            if insecure or not isinstance(root_certificates, bytes):
                raise ValueError("a site connects over TLS, to a server whose root it knows")
            context = ssl.create_default_context(cadata=root_certificates.decode("ascii"))
            context.load_cert_chain(certificate, key)
            return cls(
                f"https://{server_address}",
                interceptors=interceptors,
                verify=context,
                retry_invoker=retry_invoker,
            )

    return CertifiedClient


def _patient_invoker() -> RetryInvoker:
    """Flower's retries, but a broken handshake is a broken connection like any other."""
    invoker = make_simple_http_retry_invoker()
    gives_up = invoker.should_giveup
    assert gives_up is not None

    def should_give_up(error: Exception) -> bool:
        if isinstance(error, httpx.TransportError) and "certificate" not in str(error).lower():
            return False
        return bool(gives_up(error))

    invoker.should_giveup = should_give_up
    return invoker


def _end(unhandled: Any) -> None:
    traceback.print_exception(unhandled.exc_type, unhandled.exc_value, unhandled.exc_traceback)
    sys.stderr.flush()
    os._exit(ENDED)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
