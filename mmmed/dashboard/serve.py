"""Serve sections of pages to one machine, or over TLS to more."""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path

from mmmed.dashboard.shell import Section, create_app
from mmmed.errors import ConfigError

TOKEN = "MMMED_DASHBOARD_TOKEN"
_LEAST_TOKEN = 16  # characters
_LOCAL = ("127.0.0.1", "localhost", "[::1]")


def serve(
    sections: Sequence[Section], *, host: str, port: int, certificate: Path | None, key: Path | None
) -> None:
    """Print where the dashboard is and its token, and serve it until interrupted.

    The token is ``$MMMED_DASHBOARD_TOKEN`` if set, else a new one.

    Args:
        sections: the pages that are shown.
        host: name or address to listen at.
        port: TCP port to listen at.
        certificate: PEM file for TLS; None serves plain HTTP, on a loopback address only.
        key: PEM file of the certificate's private key.

    Raises:
        ConfigError: another machine could read along (a host that is not loopback, without TLS), the token is too
            short, a file is missing, or the port is taken.
    """
    import uvicorn

    token = os.environ.get(TOKEN) or secrets.token_urlsafe(24)
    _check(host, token, certificate, key)
    hosts = _LOCAL if _loopback(host) else ("*",)  # over TLS the certificate says who we are
    app = create_app(sections, token, hosts, secure=certificate is not None)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        log_level="warning",
        access_log=False,
        server_header=False,
    )
    scheme = "http" if certificate is None else "https"
    sock = _bind(host, port)
    print(f"dashboard: {scheme}://{host}:{sock.getsockname()[1]}/", flush=True)
    if TOKEN not in os.environ:
        print(f"token: {token}", flush=True)
    uvicorn.Server(config).run(sockets=[sock])


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen()  # whoever reads the address may connect at once
    except OSError as error:
        found.close()
        raise ConfigError(
            f"--port {port} on {host}: {error.strerror}. Choose another, or 0 for any"
        ) from error
    return found


def _check(host: str, token: str, certificate: Path | None, key: Path | None) -> None:
    if (certificate is None) != (key is None):
        raise ConfigError("--certificate and --key go together")
    if certificate is None and not _loopback(host):
        raise ConfigError(
            f"--host {host}: others could read along. Give --certificate and --key, or serve on 127.0.0.1 and reach it "
            "through an SSH tunnel"
        )
    for option, file in (("--certificate", certificate), ("--key", key)):
        if file is not None and not file.is_file():
            raise ConfigError(f"{option} {file}: no such file")
    if len(token) < _LEAST_TOKEN:
        raise ConfigError(f"${TOKEN}: expected {_LEAST_TOKEN} characters or more. Found {len(token)}")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
