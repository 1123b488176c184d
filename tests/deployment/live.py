"""A federation that runs for real on the loopback address, driven through the ``mmmed`` command as its users do."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from safetensors.numpy import load_file

from client.deploy.audit import AuditLog
from client.deploy.folder import NodeFolder
from client.log import refusals
from client.progress import Progress
from client.released import Released
from client.site import ledger_file
from mmmed.cli import main
from mmmed.config import resolve
from mmmed.deploy.certificates import create_key, make_request
from mmmed.errors import DeployError
from mmmed.models import build_model, trainable_state
from privacy.keys import load_key
from privacy.ledger import Ledger
from server.checkpoint import load_checkpoint
from server.deploy.control import Control
from server.deploy.folder import Folder
from server.deploy.runs import RunState, finished_rounds, states
from tests.client.conftest import Hospital

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


def wait_for(
    condition: Callable[[], bool], what: str, patience: float = PATIENCE, every: float = 0.1
) -> None:
    """Wait until `condition` holds, looking again after `every` seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience:.0f} s in vain for {what}")
        time.sleep(every)


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


class HospitalSite:
    """A hospital that takes part: its folder, its data and its signed policy are real, its patients are not."""

    def __init__(self, home: Path, name: str, hospitals: Path, where: str) -> None:
        self.name, self.path = name, home / name
        self.folder = Hospital(self.path, hospitals)
        self.folder.write_site(name=name, where={"site": where})
        roomy = {"epsilon": 100.0, "delta": 1e-3}  # many tests share these patients
        self.folder.sign(
            site=name,
            limit=roomy,
            period={"days": 365, **roomy},
            purposes={"training": 100.0, "evaluation": 2.0},
        )
        mmmed("site", "init", name, "--site", self.path, cwd=home)
        self.node = NodeFolder(self.path)
        self.request = self.node.path / f"{name}.request"
        self.link: Link | None = None
        self._running: Background | None = None

    def __call__(self, *arguments: object, check: bool = True) -> str:
        """Run ``mmmed site ARGUMENTS``; returns what it printed."""
        return mmmed("site", *arguments, "--site", self.path, cwd=self.path, check=check)[1]

    def start(self, kit: Path | None = None, wait: bool = True) -> None:
        """Start, and wait until it is connected and its runner is ready."""
        log = self.path / "site.out"
        log.unlink(missing_ok=True)
        for old in self.node.log.glob("*"):
            old.unlink()
        if kit is not None and self.link is not None:  # by way of the link
            text = re.sub(r"^port = \d+$", f"port = {self.link.port}", kit.read_text(), flags=re.MULTILINE)
            kit = self.path / "by-way.kit"
            kit.write_text(text)
        arguments = ["site", "start", *([kit] if kit else []), "--site", self.path]
        self._running = Background(*arguments, cwd=self.path, log=log)
        if wait:
            self._running.wait_until_says("connected as")
            wait_for(lambda: "runner: ready" in self.said("runner"), f"the runner of {self.name}")

    def end(self, how: int = signal.SIGTERM) -> None:
        """End it, if it runs."""
        if self._running is not None:
            self._running.end(how)
            self._running = None

    def said(self, process: str) -> str:
        """What its ``node`` or ``runner`` has printed."""
        try:
            return (self.node.log / f"{process}.log").read_text(errors="replace")
        except OSError:
            return ""

    def node_process(self) -> int:
        (found,) = processes("client.deploy.supernode", str(self.path))
        return found

    def runner_process(self) -> int:
        """The runner itself, not the fork that does a task."""
        return processes("client.deploy.runner", str(self.path))[0]

    def task_process(self) -> int | None:
        """The fork that does a task now, if there is one."""
        found = processes("client.deploy.runner", str(self.path))
        return found[-1] if len(found) > 1 else None

    def training(self) -> Progress | None:
        """How far it is in its round."""
        return Progress.read(self.folder.state)

    def wait_until_training(self, run: RunHandle, server_round: int, step: int = 2) -> None:
        """Wait until it is in the midst of a round."""

        def there() -> bool:
            now = self.training()
            return (
                now is not None
                and (now.run_id, now.server_round) == (run.run_id, server_round)
                and step <= now.step < now.steps
            )

        wait_for(there, f"{self.name} to train in round {server_round}", 2 * PATIENCE)

    def charged(self, run_id: str) -> int:
        """Steps charged to a run."""
        with Ledger.inspect(
            ledger_file(self.folder.state), load_key(self.folder.state / "site.key")
        ) as ledger:
            return sum(event.steps for event in ledger.events(run_id))

    def refusals(self) -> list[str]:
        return refusals(self.folder.state)

    def audit(self) -> list[dict[str, Any]]:
        """The entries of its audit log, whose chain was checked."""
        return AuditLog(self.node.audit).entries()


class Federation:
    """A coordinator and two hospitals."""

    def __init__(self, home: Path, hospitals: Path) -> None:
        self.home = home
        self.north = HospitalSite(home, "north", hospitals, "harbour")
        self.south = HospitalSite(home, "south", hospitals, "northgate")
        self.sites = [self.north, self.south]
        played = [
            home / f"{name}.request" for name in ("probe", "other", "gone")
        ]  # tests play these themselves
        for request in played:
            request.write_bytes(make_request(create_key(request.with_suffix(".key")), request.stem))
        self.coordinator = Coordinator(home, [self.north.request, self.south.request, *played])

    def start(self) -> None:
        """Start all, the sites with their kits."""
        self.coordinator.start()
        self.south.link = Link(self.coordinator.port)
        for site in self.sites:
            site.start(self.coordinator.kit(site.name), wait=False)
        for site in self.sites:
            wait_for(lambda site=site: "SuperNode ID" in site.said("node"), f"{site.name} to connect")  # type: ignore[misc]
            wait_for(lambda site=site: "ready" in site.said("runner"), f"the runner of {site.name}")  # type: ignore[misc]

    def end(self) -> None:
        """End all."""
        for site in self.sites:
            site.end()
        self.coordinator.end()
        if self.south.link is not None:
            self.south.link.close()

    def begin(self, *changes: str) -> RunHandle:
        """Start a run of a tiny model with these settings changed."""
        settings = [part for change in (*TINY, *changes) for part in ("--set", change)]
        return RunHandle(self.coordinator, self.coordinator("run", *settings).strip())


TINY = (
    "data.image_size=32",
    "data.text_tokens=16",
    "model.image_width=8",
    "model.fusion_dim=16",
    "training.batch_size=8",
    "training.local_epochs=1.0",
    "training.augment=false",
    "privacy.delta=1e-3",
    "federation.rounds=2",
    "federation.round_timeout=240.0",
)


class RunHandle:
    """A run of a federation."""

    def __init__(self, coordinator: Coordinator, name: str) -> None:
        self.coordinator, self.name = coordinator, name
        self.folder = coordinator.folder / "runs" / name

    def state(self) -> RunState:
        """What the SuperLink says of it."""
        folder = Folder(self.coordinator.folder)
        with Control(folder) as control:
            return next(state for state in states(folder, control) if state.name == self.name)

    def wait(self) -> RunHandle:
        """Wait until it has ended well."""
        wait_for(lambda: self._ended(), f"the end of run {self.name}", 3 * PATIENCE, every=1.0)
        state = self.state()
        assert state.status == "finished:completed", (state, self.rounds())
        return self

    def _ended(self) -> bool:
        try:
            return self.state().status.startswith("finished")
        except DeployError:  # the SuperLink is being started again
            return False

    def rounds(self) -> list[dict[str, Any]]:
        """Its finished rounds."""
        return finished_rounds(self.folder)

    def wait_for_round(self, number: int) -> None:
        """Wait until so many rounds are finished."""
        wait_for(lambda: len(self.rounds()) >= number, f"round {number} of run {self.name}")

    @property
    def run_id(self) -> str:
        return str(json.loads((self.folder / "environment.json").read_text())["run_id"])

    def refused(self) -> list[str]:
        """The codes with which sites refused to train, all rounds together."""
        return [line["refused"] for r in self.rounds() for line in r["train"] if "refused" in line]

    def check_model(self, sites: list[HospitalSite]) -> None:
        """The last round's model is that of the round before plus the mean of what these sites released for it."""
        last = load_checkpoint(self.folder / "checkpoints")
        assert last is not None
        before = self.model_after(last.round - 1)
        like = {name: torch.from_numpy(value) for name, value in before.items()}
        kept = [
            Released(site.folder.state / "released", self.run_id, last.round, like).read() for site in sites
        ]
        assert None not in kept, "a site has no answer to what the server sent"
        for name, value in before.items():
            updates = [answer[0][name].numpy() - value for answer in kept if answer is not None]
            np.testing.assert_allclose(last.model[name], value + np.mean(updates, axis=0), atol=1e-5)

    def model_after(self, number: int) -> dict[str, np.ndarray]:
        """The trainable parameters after a round; 0 is before the first."""
        if number == 0:
            state = trainable_state(build_model(resolve(self.folder / "config.toml").config))
            return {name: value.detach().numpy() for name, value in state.items()}
        stored = load_file(self.folder / "checkpoints" / f"round-{number:05d}.safetensors")
        return {name.removeprefix("model/"): v for name, v in stored.items() if name.startswith("model/")}


class Link:
    """A network connection to a port of this machine that can be cut in several ways.

    ``mode`` is "pass", "break" (connections are accepted and closed: a broken handshake), "hole" (accepted and never
    answered), "cut" (refused), or "slow" (some kB a second).
    """

    def __init__(self, target: int) -> None:
        self.mode, self._target = "pass", target
        self._open: list[socket.socket] = []
        self._listener = self._listen(0)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def set(self, mode: str) -> None:
        """Change the link; what is connected is cut."""
        if "cut" in (mode, self.mode) and mode != self.mode:
            self._listener.close()
            if mode != "cut":
                self._listener = self._listen(self.port)
        self.mode = mode
        while self._open:
            one = self._open.pop()
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        """Cut for ever."""
        self.set("cut")
        self._target = 0

    def _listen(self, port: int) -> socket.socket:
        return socket.create_server(("127.0.0.1", port))

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
                    time.sleep(len(data) / 200_000)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


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
