"""A federation that runs for real on the loopback address, driven through the ``mmmed`` command as its users do."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from mmmed.cli import main

PATIENCE = 90.0  # seconds; far more than needed on an idle machine


def mmmed(*arguments: object, cwd: Path, check: bool = True) -> tuple[int, str]:
    """Run ``mmmed ARGUMENTS`` to its end, in this process; returns its exit code and what it printed."""
    output = io.StringIO()
    before, sys.argv = sys.argv, ["mmmed", *map(str, arguments)]
    columns = {"COLUMNS": "200", "NO_COLOR": "1"}
    try:
        with (
            contextlib.chdir(cwd),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
            mock.patch.dict(os.environ, columns),
        ):
            main()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.argv = before
    if check and code != 0:
        raise AssertionError(f"mmmed {arguments}: {code}\n{output.getvalue()}")
    return code, output.getvalue()


def wait_for(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience:.0f} s in vain for {what}")
        time.sleep(0.1)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Background:
    """An ``mmmed`` command that runs until it is ended."""

    def __init__(self, *arguments: object, cwd: Path, log: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mmmed.cli", *map(str, arguments)],
                cwd=cwd,
                env=_environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_until_says(self, text: str) -> None:
        """Wait for `text` in its output."""

        def said() -> bool:
            if self._process.poll() is not None:
                raise AssertionError(f"ended with {self._process.returncode}:\n{self.output()}")
            return text in self.output()

        try:
            wait_for(said, repr(text))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output()}") from None

    def output(self) -> str:
        """All it has printed."""
        return self.log.read_text(errors="replace")

    def end(self, how: int = signal.SIGTERM) -> int:
        """End it; returns its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(how)
        return self._process.wait(PATIENCE)

    @property
    def pid(self) -> int:
        return self._process.pid


class Coordinator:
    """A federation's coordinator in a folder of its own."""

    def __init__(self, home: Path, requests: list[Path], port: int | None = None) -> None:
        self.home = home
        self.port, self.link_port = port or free_port(), free_port()
        ports = ("--listen", "127.0.0.1", "--port", self.port, "--link-port", self.link_port)
        self.provisioned = self("init", "localhost", *requests, *ports)
        self.folder = home / "federation"
        self._running: Background | None = None

    def __call__(self, *arguments: object, check: bool = True) -> str:
        """Run ``mmmed server ARGUMENTS``; returns what it printed."""
        return mmmed("server", *arguments, cwd=self.home, check=check)[1]

    def start(self) -> None:
        """Start and wait until sites may connect."""
        log = self.home / "server.out"
        log.unlink(missing_ok=True)
        self._running = Background("server", "start", cwd=self.home, log=log)
        self._running.wait_until_says("ready:")

    def end(self, how: int = signal.SIGTERM) -> None:
        """End it, if it runs."""
        if self._running is not None:
            self._running.end(how)
            self._running = None

    def kit(self, site: str) -> Path:
        return self.folder / "kits" / f"{site}.kit"

    def process(self, name: str) -> int:
        """The id of a running process whose command holds `name` and that belongs to this federation."""
        found = processes(name, str(self.folder))
        assert len(found) == 1, (name, found)
        return found[0]


def processes(*texts: str) -> list[int]:
    """Ids of processes whose command line holds all of `texts`, oldest first."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if all(text in line for text in texts):
                found.append(int(entry.name))
    return sorted(found)


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"}
