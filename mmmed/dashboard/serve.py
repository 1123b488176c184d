"""Serve sections of pages to one machine, or over TLS to more."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from mmmed.dashboard.shell import Section, create_app
from mmmed.errors import ConfigError
from mmmed.listening import LOCAL, bind, check_reach, is_loopback

TOKEN = "MMMED_DASHBOARD_TOKEN"
_LEAST_TOKEN = 16  # characters


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
    hosts = LOCAL if is_loopback(host) else ("*",)  # over TLS the certificate says who we are
    local = is_loopback(host)
    app = create_app(sections, token, hosts, secure=certificate is not None, local=local)
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
    sock = bind(host, port)
    print(f"dashboard: {scheme}://{host}:{sock.getsockname()[1]}/", flush=True)
    if TOKEN not in os.environ:
        print(f"token: {token}", flush=True)
    for section in sections if local else ():
        if section.note:
            print(section.note, flush=True)
    uvicorn.Server(config).run(sockets=[sock])


def _check(host: str, token: str, certificate: Path | None, key: Path | None) -> None:
    check_reach(host, certificate, key)
    if len(token) < _LEAST_TOKEN:
        raise ConfigError(f"${TOKEN}: expected {_LEAST_TOKEN} characters or more. Found {len(token)}")
