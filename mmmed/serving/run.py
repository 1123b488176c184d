"""Serve a model until it is told to stop."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from mmmed.errors import ConfigError
from mmmed.listening import LOCAL, bind, check_reach, is_loopback
from mmmed.serving.app import Served, create_app
from mmmed.serving.guard import Bounds, Counts

if TYPE_CHECKING:
    from mmmed.serving.entrance import Entrance

_LEAST_TOKEN = 16  # characters
_MOST_CONNECTIONS = 256
_MEMORY = Path("/dev/shm")  # below it, folders that this user alone can read


def read_token(file: Path) -> str:
    """The token in a file that its owner alone may read.

    Raises:
        ConfigError: others may read the file, it cannot be read, or what it holds is no token.
    """
    try:
        mode, text = file.stat().st_mode, file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {file}: cannot be read as ASCII text") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO) and sys.platform != "win32":
        raise ConfigError(f"--token-file {file}: others may read it. Make it yours alone: chmod 600 {file}")
    if len(text) < _LEAST_TOKEN or not text.isprintable() or " " in text:
        raise ConfigError(
            f"--token-file {file}: expected one token of {_LEAST_TOKEN} characters or more without spaces. "
            "Make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return text


def check(host: str, token: str | None, certificate: Path | None, key: Path | None) -> None:
    """Raise ConfigError where others than who bears the token could ask, or read along."""
    check_reach(host, certificate, key)
    if token is None and not is_loopback(host):
        raise ConfigError(f"--host {host}: anybody who reaches it could ask. Give --token-file")


def temporary_folder(bounds: Bounds) -> str:
    """Where a study's files lie while it is read: in memory if that holds all at one time, else as Python chooses.

    A TMPDIR that is set is kept to. Each request's files may be there twice: as they come, and as they are read.
    """
    usable = _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK | os.X_OK) and "TMPDIR" not in os.environ
    if usable and shutil.disk_usage(_MEMORY).free >= 2 * bounds.studies * bounds.request_bytes:
        return str(_MEMORY)
    return tempfile.gettempdir()


def serve(
    served: Served,
    *,
    host: str,
    port: int,
    token: str | None,
    bounds: Bounds,
    certificate: Path | None,
    key: Path | None,
    entrance: Entrance | None = None,
) -> None:
    """Print where the model is served, and serve it until SIGTERM or Ctrl-C; what was begun is answered.

    Raises:
        ConfigError: see `check`; or the port is taken.
    """
    import uvicorn

    check(host, token, certificate, key)
    counts = Counts()
    hosts = LOCAL if is_loopback(host) else ("*",)  # over TLS the certificate says who we are
    config = uvicorn.Config(
        create_app(served, bounds, token, hosts, counts),
        ssl_certfile=certificate,
        ssl_keyfile=key,
        log_level="critical",
        access_log=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=int(2 * bounds.seconds) + 1,
    )
    tempfile.tempdir = temporary_folder(bounds)
    sock = bind(host, port)
    scheme = "http" if certificate is None else "https"
    print(f"serving: {scheme}://{host}:{sock.getsockname()[1]}/", flush=True)
    signal.signal(signal.SIGTERM, _stop)  # uvicorn raises it again once it has shut down
    with _entrance(entrance, served, bounds, counts):
        uvicorn.Server(config).run(sockets=[sock])


@contextmanager
def _entrance(entrance: Entrance | None, served: Served, bounds: Bounds, counts: Counts) -> Iterator[None]:
    """The DICOM entrance, if there is to be one, for as long as the server runs."""
    if entrance is None:
        yield
        return
    from mmmed.serving.entrance import open_entrance

    port, close = open_entrance(entrance, served, bounds, counts)
    print(f"DICOM: {entrance.title}@127.0.0.1:{port}", flush=True)
    try:
        yield
    finally:
        close()


def _stop(_: int, __: FrameType | None) -> None:
    sys.exit(0)
