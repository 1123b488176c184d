"""A link breaks as it is told to, and mends."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from simulations.loopback.link import Link, Mode


@pytest.fixture
def link() -> Iterator[Link]:
    """A link to a port that sends back what it is sent."""
    listener = socket.create_server(("127.0.0.1", 0))

    def echo() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            while data := client.recv(1024):
                client.sendall(data)
            client.close()

    threading.Thread(target=echo, daemon=True).start()
    link = Link(int(listener.getsockname()[1]))
    yield link
    link.close()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def _asked(link: Link) -> str:
    """What comes of a connection: "answered", or how it fails."""
    try:
        with socket.create_connection(("127.0.0.1", link.port), timeout=0.5) as client:
            client.sendall(b"hello")
            return "answered" if client.recv(5) == b"hello" else "closed"
    except OSError as error:
        return type(error).__name__


def _comes_to(link: Link, *outcomes: str) -> bool:
    for _ in range(20):  # the thread that accepts looks again every 50 ms
        if _asked(link) in outcomes:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("mode", "outcomes"),
    [
        ("break", ("closed", "ConnectionResetError", "BrokenPipeError")),
        ("hole", ("TimeoutError",)),
        ("cut", ("ConnectionRefusedError",)),
        ("slow", ("answered",)),
    ],
)
def test_a_fault_lasts_until_the_link_passes_again(link: Link, mode: Mode, outcomes: tuple[str, ...]) -> None:
    for _ in range(2):
        assert _comes_to(link, "answered")
        link.set(mode)
        assert _comes_to(link, *outcomes)
        link.set("pass")
    assert _comes_to(link, "answered")


def test_one_fault_may_follow_another_on_the_same_port(link: Link) -> None:
    port = link.port
    for mode, outcome in (
        ("cut", "ConnectionRefusedError"),
        ("hole", "TimeoutError"),
        ("cut", "ConnectionRefusedError"),
    ):
        link.set(mode)  # type: ignore[arg-type]
        assert _comes_to(link, outcome)
    link.set("pass")
    assert _comes_to(link, "answered")
    assert link.port == port


def test_a_fault_cuts_who_is_connected(link: Link) -> None:
    with socket.create_connection(("127.0.0.1", link.port), timeout=2) as client:
        client.sendall(b"hello")
        assert client.recv(5) == b"hello"
        link.set("hole")
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(5) == b""
