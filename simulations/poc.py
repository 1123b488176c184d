"""A whole federation on this machine, for a first look: ``mmmed poc``.

It is the federation of `simulations.loopback`: every process is one that a user starts, with keys, TLS and signed
policies. Only who plays the parts is made up: this machine is the coordinator and each hospital, and every policy is
written so that it allows the one configuration.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from shlex import quote
from typing import Any

from client.run_request import INSTALLED, run_request
from mmmed.config import RunConfig
from mmmed.config.sources import to_toml
from mmmed.dashboard.serve import TOKEN
from mmmed.data.manifest import read_table, table_file
from mmmed.data.source import locate
from mmmed.errors import ConfigError, DeployError
from mmmed.pki import require_linux
from privacy.policy import EVALUATION, TRAINING
from simulations.loopback.coordinator import RunHandle
from simulations.loopback.federation import Federation
from simulations.loopback.processes import Background, free_port

_BUDGET = 3  # times the run's epsilon, for each patient: a few runs like the first
CONFIG, NEXT = "run.toml", "NEXT.txt"


class Poc:
    """A coordinator and some hospitals in one folder, which go on by hand once they were ended.

    Attributes:
        federation: the coordinator and the hospitals.
        token: what every dashboard asks for.
    """

    def __init__(self, home: Path, config: RunConfig, sites: int) -> None:
        """
        Args:
            home: folder of everything; it is made.
            config: what the policies allow, and `run` starts.
            sites: how many hospitals: those of the data set with the most patients.

        Raises:
            DeployError: the folder is there already, or this is no Linux.
            ConfigError: the data set has fewer hospitals, or the configuration is one that no hospital can allow.
            DataError: the data set cannot be read.
        """
        require_linux()
        if (least := config.federation.min_sites) > sites:
            raise ConfigError(
                f"federation.min_sites is {least}, but --sites is {sites}. Raise --sites, or lower federation.min_sites"
                + (" and federation.honest" if config.federation.honest >= least else "")
            )
        if home.exists():
            raise DeployError(f"{home}: is there already. Name another --out, or go on as its {NEXT} says")
        data = locate(config.data.source).resolve()
        table = table_file(data, config.data)
        patients, rules = hospitals(table, config, sites), allowing(config)
        self.home, self._config = home.resolve(), config
        self.home.mkdir(parents=True)
        (self.home / CONFIG).write_text(to_toml(config), encoding="utf-8")
        columns = {name: getattr(config.data, name) for name in ("patient", "study", "site")}
        self.federation = Federation(
            self.home,
            data,
            patients,
            links=False,
            site={"table": str(table.relative_to(data)), **columns},
            rules=rules,
        )
        if (shared := run_request(config, TRAINING, INSTALLED).shared) is not None:
            self.federation.introduce(shared)
        (self.home / NEXT).write_text(self.by_hand(), encoding="utf-8")
        self.token = secrets.token_urlsafe(12)
        self._dashboards: list[Background] = []

    def start(self) -> None:
        """Start coordinator and sites; wait until all are ready. Raises DeployError if one ends or takes too long."""
        self.federation.start()

    def show(self) -> dict[str, str]:
        """Start a dashboard of the coordinator and one of each hospital; where they are, by name."""
        folders = {"coordinator": self.federation.coordinator.folder}
        folders |= {site.name: site.path for site in self.federation.sites}
        ports = {name: free_port() for name in folders}
        self._dashboards = [
            Background(
                *("dashboard", folder, "--port", ports[name]),
                cwd=self.home,
                log=self.home / f"dashboard-{name}.out",
                environment={TOKEN: self.token},
            )
            for name, folder in folders.items()
        ]
        for one in self._dashboards:
            one.wait_until_says("dashboard:")
        return {name: f"http://127.0.0.1:{port}/" for name, port in ports.items()}

    def run(self) -> RunHandle:
        """Start the run of the configuration."""
        coordinator = self.federation.coordinator
        return RunHandle(coordinator, coordinator("run", self.home / CONFIG).strip())

    def end(self) -> None:
        """End all processes that were started here, and wait for each."""
        for one in self._dashboards:
            one.end()
        self.federation.end()

    def by_hand(self) -> str:
        """The commands with which to go on, each with what it is for."""
        names = [quote(site.name) for site in self.federation.sites]  # a hospital's may hold spaces
        some = names[0]
        commands = {
            f"cd {quote(str(self.home))}": "",
            "mmmed server start": "the coordinator; it and each site in a terminal of its own",
            **{f"mmmed site start --site {name}": f"the hospital {name}" for name in names},
            f"mmmed server run {CONFIG}": "a run; each patient's budget is enough for a few like it",
            "mmmed server status": "sites and runs",
            "mmmed server log": "the newest run, round by round",
            "mmmed dashboard federation": f"in a browser; the same with {some}",
            f"mmmed site doctor --site {some}": "what keeps a site from taking part",
            f"mmmed site log --site {some}": "what was asked of it, and what it sent",
            f"mmmed privacy ledger show {some}": "what its patients were spent",
            f"mmmed privacy policy show {some}": "what it allows; edit site-policy.toml there, then",
            f"mmmed privacy policy sign {some} --key officers/{some}.key": "what is wider takes two officers: add",
            f"  --second second-officers/{some}.key": "",
        }
        width = max(map(len, commands))
        return "".join(
            f"{command:{width}}  # {what}\n" if what else f"{command}\n" for command, what in commands.items()
        )


def hospitals(table: Path, config: RunConfig, sites: int) -> dict[str, Any]:
    """The hospitals of a table with the most patients: name -> its cell in the column of sites.

    Raises:
        ConfigError: there are fewer, or no such column.
        DataError: the table cannot be read.
    """
    frame, data = read_table(table), config.data
    if missing := {data.site, data.patient} - set(frame.columns):
        raise ConfigError(
            f"{table}: no column {', '.join(sorted(missing))}. Name it by data.site, data.patient"
        )
    patients = frame.groupby(data.site)[data.patient].nunique().sort_values(ascending=False, kind="stable")
    if len(patients) < sites:
        raise ConfigError(
            f"--sites {sites}: {table} has {len(patients)} hospitals in its column {data.site!r}"
        )
    return {str(value): value for value in patients.index[:sites].tolist()}


def allowing(config: RunConfig) -> dict[str, Any]:
    """Rules of a policy that allows a few runs of this configuration and nothing else.

    Raises:
        ConfigError: no policy allows a run without privacy.
    """
    if not config.privacy.enabled:
        raise ConfigError("privacy.enabled: a deployed site trains with privacy alone. Leave it out")
    training = run_request(config, TRAINING, INSTALLED)
    evaluation = run_request(config, EVALUATION, INSTALLED)
    run = {"epsilon": max(training.epsilon, evaluation.epsilon), "delta": config.privacy.delta}
    limit = run | {"epsilon": _BUDGET * run["epsilon"]}
    return {
        "limit": limit,
        "period": {"days": 365, **limit},
        "run__epsilon": run["epsilon"],
        "run__delta": run["delta"],
        "run__max_records_per_patient": training.records_per_patient,
        "run__models": [training.model],
        "run__trainable": [training.trainable],
        "run__columns": sorted(training.columns | evaluation.columns),
        "purposes": {TRAINING: limit["epsilon"], EVALUATION: limit["epsilon"]},
        "metrics": dict(evaluation.metrics),
    }
