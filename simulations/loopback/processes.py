"""The ``mmmed`` command, run to its end or in the background, and the processes that it left."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import mock

from mmmed.cli import main
from mmmed.errors import DeployError

PATIENCE = 600.0  # seconds; far more than needed on an idle machine
_PLAIN = {"COLUMNS": "200", "NO_COLOR": "1"}


def mmmed(*arguments: object, cwd: Path, check: bool = True) -> tuple[int, str]:
    """Run ``mmmed ARGUMENTS`` to its end, in this process; returns its exit code and what it printed.

    Raises:
        DeployError: it did not end well, and `check` asks that it does.
    """
    output = io.StringIO()
    before, sys.argv = sys.argv, ["mmmed", *map(str, arguments)]
    try:
        with (
            contextlib.chdir(cwd),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
            mock.patch.dict(os.environ, _PLAIN),
        ):
            main()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.argv = before
    if check and code != 0:
        told = " ".join(map(str, arguments))
        raise DeployError(f"mmmed {told}: exit code {code}\n{output.getvalue()}")
    return code, output.getvalue()


def wait_for(
    condition: Callable[[], bool], what: str, patience: float = PATIENCE, every: float = 0.1
) -> None:
    """Wait until a condition holds.

    Args:
        condition: looked at again and again.
        what: a name for it, for the error.
        patience: seconds to wait, at most.
        every: seconds between two looks.

    Raises:
        DeployError: it does not hold within `patience` seconds.
    """
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise DeployError(f"waited {patience:.0f} s in vain for {what}")
        time.sleep(every)


def free_port() -> int:
    """A port of the loopback address that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Background:
    """An ``mmmed`` command that runs until it is ended."""

    def __init__(
        self, *arguments: object, cwd: Path, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mmmed.cli", *map(str, arguments)],
                cwd=cwd,
                env=os.environ | {"OMP_NUM_THREADS": "1", **_PLAIN, **(environment or {})},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_until_says(self, text: str) -> None:
        """Wait until the command's output holds `text`. Raises DeployError, with its output, if it ends before."""

        def said() -> bool:
            if self._process.poll() is not None:
                raise DeployError(f"{self.log}: ended with {self._process.returncode}")
            return text in self.output()

        try:
            wait_for(said, repr(text))
        except DeployError as error:
            raise DeployError(f"{error}\n{self.output()}") from None

    def output(self) -> str:
        """All that the command has printed so far."""
        return self.log.read_text(errors="replace")

    def end(self, how: int = signal.SIGTERM) -> int:
        """End the command by the signal `how`; returns its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(how)
        return self._process.wait(PATIENCE)


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


def children(process: int | None) -> list[int]:
    """Ids of the processes that a process has started and that still run."""
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def kill(process: int | None) -> None:
    """End a process as a crash does, with no chance to tidy up."""
    assert process is not None
    os.kill(process, signal.SIGKILL)
