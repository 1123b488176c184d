"""A hospital that takes part: its folder, its data and its signed policy are real, its patients are not."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.node.folder import NodeFolder
from client.node.log import SiteLog
from client.progress import Progress
from client.refusal_log import refusals
from client.site_folder import SiteFolder, StateFolder
from privacy.keys import create_key, public_pem
from privacy.ledger import Ledger
from privacy.policy import sign_policy
from simulations.loopback.coordinator import RunHandle
from simulations.loopback.link import Link
from simulations.loopback.processes import PATIENCE, Background, mmmed, processes, wait_for

ROOMY = {"epsilon": 100.0, "delta": 1e-3}  # many runs share these patients


def rules() -> dict[str, Any]:
    """A policy under which a small site may train and show private results."""
    return {
        "version": 1,
        "site": "north",
        "expires": date(2099, 12, 31),
        "unit": "patient",
        "adjacency": "add_remove",
        "limit": {"epsilon": 12.0, "delta": 1e-3},
        "period": {"days": 365, "epsilon": 12.0, "delta": 1e-3},
        "run": {
            "epsilon": 8.0,
            "delta": 1e-3,
            "min_noise_multiplier": 0.3,
            "min_patients": 5,
            "max_records_per_patient": 2,
            "models": ["resnet10+tiny"],
            "trainable": ["full"],
            "apps": ["installed"],
            "columns": ["finding", "image", "text"],
        },
        "evaluation": {"min_patients": 3},
        "purposes": {"training": 12.0, "evaluation": 2.0},
        "metrics": {"auroc": "private", "calibration": "private"},
    }


def change(rules: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Change rules of a policy in place, each named ``section__key`` or ``key``."""
    for name, value in changes.items():
        section, _, key = name.rpartition("__")
        (rules[section] if section else rules)[key] = value


class Hospital:
    """A deployed site's folder over one of several hospitals in a data set, and its privacy officers.

    Args:
        path: the site's folder, which is made.
        hospitals: data set of all hospitals.
        officer: the privacy officer's key; a new one by default.
        second: the second officer's, likewise.
        site: keys of site.toml that differ from those of the first of the generated hospitals.
    """

    def __init__(
        self,
        path: Path,
        hospitals: Path,
        officer: Ed25519PrivateKey | None = None,
        second: Ed25519PrivateKey | None = None,
        **site: Any,
    ) -> None:
        self.path = path
        self.officer = officer or Ed25519PrivateKey.generate()
        self.second = second or Ed25519PrivateKey.generate()
        self.site: dict[str, Any] = {
            "version": 1,
            "name": "north",
            "dataset": str(hospitals),
            "table": "data.csv",
            **site,
        }
        if "where" not in site:
            self.site["where"] = {"site": min(pd.read_csv(hospitals / "data.csv")["site"])}
        self.rules = rules()
        path.mkdir()
        (path / "officer.pub").write_text(public_pem(self.officer.public_key()))
        (path / "second-officer.pub").write_text(public_pem(self.second.public_key()))
        self.write_site()
        self.sign()

    @property
    def state(self) -> Path:
        return SiteFolder(self.path).logging_state.path

    def write_site(self, **changes: Any) -> None:
        """Write site.toml with these keys changed."""
        self.site |= changes
        (self.path / "site.toml").write_text(tomli_w.dumps(self.site))

    def sign(self, *, by_two: bool = False, **changes: Any) -> None:
        """Write and sign the policy with these rules changed, ``section__key`` or ``key``."""
        change(self.rules, changes)
        policy = self.path / "site-policy.toml"
        policy.write_text(tomli_w.dumps(self.rules))
        sign_policy(policy, self.officer, self.second if by_two else None)


class LiveHospital:
    """A hospital whose node and runner can be started, watched and disturbed."""

    def __init__(
        self,
        home: Path,
        name: str,
        hospitals: Path,
        where: str,
        site: Mapping[str, Any],
        rules: Mapping[str, Any],
    ) -> None:
        """
        Args:
            home: folder of the federation; the hospital's own lies in it, and its two officers' keys beside it.
            name: of the hospital.
            hospitals: data set of all hospitals.
            where: the site in `hospitals` whose patients it has.
            site: keys of its site.toml that differ from `Hospital.site`.
            rules: rules of its policy that differ from a roomy one, ``section__key`` or ``key``.
        """
        self.name, self.path = name, home / name
        own = {**site, "name": name}
        own["where"] = {own.get("site", "site"): where}
        keys = []
        for officers in (home / "officers", home / "second-officers"):
            officers.mkdir(exist_ok=True)
            keys.append(create_key(officers / f"{name}.key"))
        self.folder = Hospital(self.path, hospitals, *keys, **own)
        roomy: dict[str, Any] = {
            "limit": ROOMY,
            "period": {"days": 365, **ROOMY},
            "purposes": {"training": ROOMY["epsilon"], "evaluation": ROOMY["epsilon"]},
        }
        self.folder.sign(**roomy | dict(rules) | {"site": name})
        mmmed("site", "init", name, "--site", self.path, cwd=home)
        self.node = NodeFolder(self.path)
        self.request = self.node.path / f"{name}.request"
        self.link: Link | None = None
        self._running: Background | None = None

    def __call__(self, *arguments: object, check: bool = True) -> str:
        """Run ``mmmed site ARGUMENTS``; returns what it printed."""
        return mmmed("site", *arguments, "--site", self.path, cwd=self.path, check=check)[1]

    def peer_key(self) -> str:
        """By which other sites' policies name this one; key and ledger are made if need be."""
        layout = SiteFolder(self.path)
        with layout.ledger(layout.policy()) as ledger:
            return ledger.signer

    def start(
        self, kit: Path | None = None, wait: bool = True, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start the hospital's processes; with `wait`, return once it is connected and its runner is ready."""
        log = self.path / "site.out"
        log.unlink(missing_ok=True)
        for old in self.node.log.glob("*"):
            old.unlink()
        if kit is not None and self.link is not None:  # by way of the link
            text = re.sub(r"^port = \d+$", f"port = {self.link.port}", kit.read_text(), flags=re.MULTILINE)
            kit = self.path / "by-way.kit"
            kit.write_text(text)
        arguments = ["site", "start", *([kit] if kit else []), "--site", self.path]
        self._running = Background(*arguments, cwd=self.path, log=log, environment=environment)
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until the hospital has connected since its last start and its runner is ready."""
        wait_for(lambda: "SuperNode ID" in self.said("node"), f"{self.name} to connect")
        wait_for(lambda: "runner: ready" in self.said("runner"), f"the runner of {self.name}")

    def end(self, how: int = signal.SIGTERM) -> None:
        """End the hospital's processes, if they run."""
        if self._running is not None:
            self._running.end(how)
            self._running = None

    def said(self, process: str) -> str:
        """What the process ``node`` or ``runner`` has printed since the last start."""
        try:
            return (self.node.log / f"{process}.log").read_text(errors="replace")
        except OSError:
            return ""

    def node_process(self) -> int | None:
        """Id of the node's process; None if it does not run."""
        found = processes("client.node.supernode", str(self.path))
        return found[0] if found else None

    def runner_process(self) -> int | None:
        """Id of the runner, not of the fork that does a task; None while it is being started again."""
        found = processes("client.node.runner", str(self.path))
        return found[0] if found else None

    def task_process(self) -> int | None:
        """Id of the fork that does a task now; None if there is none."""
        found = processes("client.node.runner", str(self.path))
        return found[-1] if len(found) > 1 else None

    def training(self) -> Progress | None:
        """The hospital's progress in its current round, if it trains."""
        return Progress.read(self.folder.state)

    def wait_until_training(self, run: RunHandle, server_round: int) -> None:
        """Wait until the hospital has taken some steps of a round, but not all."""

        def there() -> bool:
            now = self.training()
            return (
                now is not None
                and (now.run_id, now.server_round) == (run.run_id, server_round)
                and 2 <= now.step < now.steps
            )

        wait_for(there, f"{self.name} to train in round {server_round}", 2 * PATIENCE)

    def charged(self, run_id: str) -> int:
        """Number of steps that the ledger has charged to a run."""
        with self._ledger() as ledger:
            return sum(event.steps for event in ledger.events(run_id))

    def spent(self, run_id: str) -> float:
        """Epsilon that the ledger has charged to a run."""
        with self._ledger() as ledger:
            return ledger.spent(ROOMY["delta"], run_id=run_id)

    def _ledger(self) -> Ledger:
        return StateFolder(self.folder.state).inspect()

    def refusals(self) -> list[str]:
        """The lines of the hospital's log of refused requests."""
        return refusals(self.folder.state)

    def audit(self) -> list[dict[str, Any]]:
        """The entries of the hospital's log of requests and decisions, once its chain is verified."""
        return SiteLog(self.node.audit).entries()
