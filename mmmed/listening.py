"""Who may reach a server of mmmed: this machine, or others over TLS alone."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

from mmmed.errors import ConfigError

LOCAL = ("127.0.0.1", "localhost", "[::1]")  # names by which this machine reaches itself


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_reach(host: str, certificate: Path | None, key: Path | None) -> None:
    """Raise ConfigError where another machine could read along, or a file of TLS is missing."""
    if (certificate is None) != (key is None):
        raise ConfigError("--certificate and --key go together")
    if certificate is None and not is_loopback(host):
        raise ConfigError(
            f"--host {host}: others could read along. Give --certificate and --key, or serve on 127.0.0.1 and reach it "
            "through an SSH tunnel"
        )
    for option, file in (("--certificate", certificate), ("--key", key)):
        if file is not None and not file.is_file():
            raise ConfigError(f"{option} {file}: no such file")


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens: whoever reads the address may connect at once. Raises ConfigError if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen()
    except OSError as error:
        found.close()
        raise ConfigError(
            f"--port {port} on {host}: {error.strerror}. Choose another, or 0 for any"
        ) from error
    return found
