"""A network connection that can be broken in the ways in which networks break."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Literal

Mode = Literal["pass", "break", "hole", "cut", "slow"]
_SLOW = 200_000  # bytes a second


class Link:
    """A way to a port of this machine.

    ``mode`` is "pass", "break" (connections are accepted and closed: a broken handshake), "hole" (accepted and never
    answered), "cut" (refused), or "slow" (200 kB a second).
    """

    def __init__(self, target: int) -> None:
        self.mode: Mode = "pass"
        self._target = target
        self._open: list[socket.socket] = []
        self._listener = _bound(0)
        self._listener.listen()
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def set(self, mode: Mode) -> None:
        """Change how the link behaves; open connections are cut."""
        if mode == "cut" != self.mode:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = _bound(self.port)  # refuses, since it does not listen, and holds the port
        elif self.mode == "cut" != mode:
            self._listener.listen()
        self.mode = mode
        while self._open:
            one = self._open.pop()
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        """Cut the link for good."""
        self._target = 0
        self.set("cut")
        self._listener.close()

    def _serve(self) -> None:
        while self._target:
            try:
                client, _ = self._listener.accept()
            except OSError:
                time.sleep(0.05)
                continue
            if self.mode == "break":
                client.close()
                continue
            self._open.append(client)
            if self.mode != "hole":
                with contextlib.suppress(OSError):
                    server = socket.create_connection(("127.0.0.1", self._target))
                    self._open.append(server)
                    for pair in ((client, server), (server, client)):
                        threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                if self.mode == "slow":
                    time.sleep(len(data) / _SLOW)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound
