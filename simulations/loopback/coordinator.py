"""A federation's coordinator in a folder of its own, and the runs that it started."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from mmmed.errors import DeployError
from server.deployment.control import Control
from server.deployment.folder import Folder
from server.deployment.runs import RunState, finished_rounds, states
from simulations.loopback.processes import PATIENCE, Background, free_port, mmmed, processes, wait_for


class Coordinator:
    """The coordinator's commands and processes. `requests` are the certificate requests of the sites that it admits."""

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
        """Start the coordinator's processes, and wait until sites may connect."""
        log = self.home / "server.out"
        log.unlink(missing_ok=True)
        self._running = Background("server", "start", cwd=self.home, log=log)
        self._running.wait_until_says("ready:")

    def end(self, how: int = signal.SIGTERM) -> None:
        """End the coordinator's processes, if they run."""
        if self._running is not None:
            self._running.end(how)
            self._running = None

    def kit(self, site: str) -> Path:
        """Path of a site's start-up kit."""
        return self.folder / "kits" / f"{site}.kit"

    def process(self, name: str) -> int | None:
        """Id of a process of this federation whose command line holds `name`; None if there is none."""
        found = processes(name, str(self.folder))
        return found[0] if found else None

    def server_apps(self) -> list[int]:
        """Ids of the processes that run rounds now."""
        return processes("flwr-serverapp", str(self.link_port))


class RunHandle:
    """A run of a federation."""

    def __init__(self, coordinator: Coordinator, name: str) -> None:
        self.coordinator, self.name = coordinator, name
        self.folder = coordinator.folder / "runs" / name

    def state(self) -> RunState:
        """The run's state as the SuperLink reports it."""
        folder = Folder(self.coordinator.folder)
        with Control(folder) as control:
            return next(state for state in states(folder, control) if state.name == self.name)

    def wait(self, patience: float = 3 * PATIENCE) -> RunHandle:
        """Wait until the run has ended, and check that it completed."""
        wait_for(self.ended, f"the end of run {self.name}", patience, every=1.0)
        state = self.state()
        assert state.status == "finished:completed", (state, self.rounds())
        return self

    def ended(self) -> bool:
        """Whether the run has ended, completed or not."""
        try:
            return self.state().status.startswith("finished")
        except DeployError:  # the SuperLink is being started again
            return False

    def rounds(self) -> list[dict[str, Any]]:
        """The records of the run's finished rounds."""
        return finished_rounds(self.folder)

    def wait_for_round(self, number: int) -> None:
        """Wait until `number` rounds are finished."""
        wait_for(lambda: len(self.rounds()) >= number, f"round {number} of run {self.name}")

    @property
    def run_id(self) -> str:
        """The id by which sites know the run."""
        return str(json.loads((self.folder / "environment.json").read_text())["run_id"])

    def refused(self) -> list[str]:
        """The codes with which sites refused to train, of all rounds."""
        return [line["refused"] for r in self.rounds() for line in r["train"] if "refused" in line]

    def reported(self) -> dict[str, float]:
        """Epsilon charged so far at each site, by name, from the run's report."""
        report = json.loads((self.folder / "report" / "privacy.json").read_text(encoding="utf-8"))
        return {site["site"]: float(site["epsilon_charged"]) for site in report["sites"]}
