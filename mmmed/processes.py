"""Processes that are kept running: started in order, started again when they end, stopped together.

A process that ends is started again after a pause that doubles from 1 to 30 seconds and begins anew once it has lived
for a minute. What it had started is asked to end as well: a worker that outlived its nginx would keep the port, and
its list of sites. Should the supervisor itself be killed, the kernel ends its processes too. What they print goes to
``<name>.log`` in the log folder, rotated at 10 MB.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from mmmed.text import shown

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE, _SETTLED = 1.0, 30.0, 60.0  # seconds
_GRACE = 10.0  # seconds between asking a process to end and killing it
_LOG_BYTES, _LOGS = 10_000_000, 3
_TICK = 0.2


def flower_environment(home: Path) -> dict[str, str]:
    """This process's environment for Flower's processes: they keep their files in `home` and install nothing."""
    return os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
    }


# Asks the kernel to signal the process when its supervisor dies (prctl PR_SET_PDEATHSIG = 1), then becomes it.
_TIED = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() != int(sys.argv[1]): sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True)
class Service:
    """A process to keep running.

    Attributes:
        name: what it is called in logs.
        command: absolute path of the program, and its arguments.
        environment: its whole environment.
        started: called after each start, in the supervisor.
        heard: called with each line that the process prints, in a thread of its own.
        why: called when the process has ended, in a thread of its own; what a person should know of it, "" for no more
            than what it last said. The same words are told once.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    started: Callable[[], None] = field(default=lambda: None)
    heard: Callable[[str], None] = field(default=lambda line: None)
    why: Callable[[], str] = field(default=lambda: "")


class _Child:
    """One service's process, its next start and its log."""

    def __init__(self, service: Service, logs: Path) -> None:
        self.service = service
        self._handler = logging.handlers.RotatingFileHandler(
            logs / f"{service.name}.log", maxBytes=_LOG_BYTES, backupCount=_LOGS, encoding="utf-8"
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._pause = _FIRST_PAUSE
        self._born = self._next = 0.0
        self._said = ""  # the last line it printed
        self._told = ""  # what was last told of why it ended

    def keep(self) -> None:
        """Start the process unless it runs or its pause lasts."""
        now = time.monotonic()
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            if now - self._born > _SETTLED:
                self._pause = _FIRST_PAUSE
            ended = f"{self.service.name} ended ({_how(code)}); starts again in {self._pause:.0f} s"
            threading.Thread(target=self._tell, args=(ended,), daemon=True).start()
            self._process, self._next = None, now + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        if now >= self._next:
            self._start()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def ask_to_end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def end(self, deadline: float) -> None:
        """Wait for the process to end; kill it at `deadline`, and whatever it has started and left."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # A task's process that sends its answer heeds no SIGTERM: without its runner it would try for ever.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _tell(self, ended: str) -> None:
        why = self.service.why().strip()
        if not why:
            log.warning("%s. It last said: %s", ended, shown(self._said or "nothing"))
        elif why != self._told:
            log.warning("%s. %s", ended, shown(why, 1000))
        self._told = why

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *self.service.command],
            env=dict(self.service.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        self._born = time.monotonic()
        threading.Thread(target=self._pump, args=(self._process,), daemon=True).start()
        self.service.started()

    def _pump(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for (
            line
        ) in process.stdout:  # goes on when the log cannot be written: a full disk must not stop the process
            text = line.decode("utf-8", errors="replace").rstrip()
            self._handler.handle(logging.LogRecord("", logging.INFO, "", 0, text, None, None))
            self._said = text or self._said
            self.service.heard(text)


class Supervisor:
    """Keeps services running until SIGTERM or SIGINT; `run` returns once all have ended."""

    def __init__(self, services: Sequence[Service], logs: Path) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        logging.raiseExceptions = False
        self._children = [_Child(service, logs) for service in services]
        self._stop = threading.Event()

    def run(self) -> None:
        """Keep the services running. Call it from the main thread."""
        before = {
            number: signal.signal(number, self._signalled) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            while not self._stop.is_set():
                for child in self._children:
                    child.keep()
                self._stop.wait(_TICK)
        finally:
            self._end()
            for number, handler in before.items():
                signal.signal(number, handler)

    def restart(self, name: str) -> None:
        """Kill a service; it is then started again. May be called from any thread."""
        for child in self._children:
            if child.service.name == name:
                child.kill()

    def _end(self) -> None:
        for child in reversed(self._children):
            child.ask_to_end()
        deadline = time.monotonic() + _GRACE
        for child in reversed(self._children):
            child.end(deadline)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._stop.set()


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
