"""A site of a simulation: one of several in one table, on the researcher's own machine."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from client.mechanism import local_schedule
from client.model import built_by
from client.run_request import INSTALLED, run_request
from client.site import Site, split_patients
from client.site_folder import STATE, StateFolder
from mmmed.config import DataConfig, RunConfig
from mmmed.data.loader import SiteData, open_site_data
from mmmed.data.manifest import Manifest, read_manifest, table_file
from mmmed.data.source import locate
from mmmed.errors import DataError
from mmmed.paths import image_cache
from mmmed.tasks import Task
from privacy.errors import PlanError, PolicyError
from privacy.keys import load_or_create_key
from privacy.ledger import Budget
from privacy.planning import check_delta
from privacy.policy import Policy, SimulationPolicy, SitePolicy

STATE_DIR = "MMMED_STATE_DIR"
POLICY = "policy"  # of the node's configuration: a policy file to try
TABLE = "table"  # of the node's configuration: the common table, where it is not the data set's own


class Partition:
    """The place of a simulated site: the rows of a common table that a node's ``partition-id`` numbers.

    See `client.gate.Place`.
    """

    def __init__(self, node: Mapping[str, object]) -> None:
        self._node = node

    @property
    def state(self) -> Path:
        """The node's own ``state-dir``, else a folder below `$MMMED_STATE_DIR` or the home."""
        own = self._node.get("state-dir")
        if isinstance(own, str) and own:
            return Path(own)
        root = os.environ.get(STATE_DIR)
        home = Path(root) if root else Path.home() / ".mmmed" / STATE
        return home / f"site-{self._node.get('partition-id')}"

    @property
    def shows_everything(self) -> bool:
        return POLICY not in self._node

    def name(self, config: RunConfig) -> str:
        return self._site(config).name

    def in_use(self) -> AbstractContextManager[None]:
        return nullcontext()  # nobody withdraws from a simulation

    def judge(self, config: RunConfig, purpose: str) -> Policy:
        policy = self._policy(config)
        policy.check(run_request(config, purpose, INSTALLED), time.time())
        return policy

    def foresee(self, config: RunConfig, purpose: str) -> None:
        self.judge(config, purpose)

    @property
    def approves(self) -> bool:
        return False

    def open(self, config: RunConfig, policy: Policy) -> Site:
        return replace(self._site(config), policy=policy)

    def _policy(self, config: RunConfig) -> Policy:
        path, epsilon, delta = (self._node.get(key) for key in (POLICY, "limit-epsilon", "limit-delta"))
        if isinstance(path, str):
            return read_trial_policy(Path(path))
        if isinstance(epsilon, float) and isinstance(delta, float):
            return SimulationPolicy(Budget(epsilon, delta))
        return _permissive(config)

    def _site(self, config: RunConfig) -> Site:
        partition, count = self._node.get("partition-id"), self._node.get("num-partitions")
        if not isinstance(partition, int) or not isinstance(count, int):
            raise DataError(
                "the node's configuration names no site: expected site-dir, or partition-id and num-partitions"
            )
        table = self._node.get(TABLE)
        sites = _sites(config, count, Path(table) if isinstance(table, str) else None)
        return sites.open(partition, self.state)


def simulated_manifest(config: RunConfig, table: Path | None = None) -> Manifest:
    """The table of all simulated sites; one that has not changed is read once a process.

    Args:
        config: names the data set.
        table: a file of the sites' own, read in the place of the data set's table; its files are the data set's.
    """
    root, data = locate(config.data.source), config.data
    if table is not None:
        data = data.model_copy(update={"table": str(table.absolute())})
    path = table_file(root, data)
    stat = path.stat() if path.is_file() else None
    stamp = (stat.st_size, stat.st_mtime_ns, stat.st_ino) if stat else (0, 0, 0)
    return _read(root, data, config.task, stamp)


@lru_cache(maxsize=2)
def _read(root: Path, data: DataConfig, task: Task, stamp: tuple[int, int, int]) -> Manifest:
    return read_manifest(root, data, task)


@lru_cache(maxsize=64)
def site_manifest(manifest: Manifest, site: str) -> Manifest:
    """`Manifest.of_site`, the same object each time."""
    return manifest.of_site(site)


def site_data(manifest: Manifest, config: RunConfig) -> SiteData:
    """The records of a simulated site, of which `site_manifest` gave the table."""
    return _opened(manifest, built_by(config))[0]


@lru_cache(maxsize=64)
def _opened(manifest: Manifest, built: RunConfig) -> tuple[SiteData, tuple[str, ...], tuple[str, ...]]:
    """A simulated site's records and `split_patients`, shared by the runs of a process; `built` as `built_by` gives."""
    return open_site_data(manifest, built, image_cache()), *split_patients(manifest, built)


def check_site(manifest: Manifest, config: RunConfig) -> int:
    """Check that a site's records can train as the run asks; returns how many patients it trains on.

    Reads and caches the images; keeps no other state.

    Raises:
        DataError: unreadable images, or no patient to train on.
        PlanError: delta or batch size does not suit the site.
    """
    patients = site_data(manifest, config).train.patients
    try:
        if config.privacy.enabled:
            check_delta(config.privacy.delta, patients)
        local_schedule(config, patients)
    except PlanError as error:
        raise PlanError(f"site {manifest.sites[0]} ({patients} patients to train on): {error}") from error
    return patients


def open_simulated(manifest: Manifest, config: RunConfig, state: Path, policy: Policy | None = None) -> Site:
    """Open one site of a simulation.

    Args:
        manifest: the site's records, and no other's.
        config: the run's configuration.
        state: folder of the site's key, ledger and answers; it is made if it is not there.
        policy: what the site allows; None allows everything within the run's target.

    Raises:
        DataError: unreadable files, or a split that leaves a side without patients.
        ModelError: what an encoder needs to read its modality, such as a tokenizer, is not here.
        SigningKeyError: the file of the site's key does not hold one.
    """
    state.mkdir(parents=True, exist_ok=True)
    data, patients, others = _opened(manifest, built_by(config))
    return Site(
        name=manifest.sites[0],
        data=data,
        patients=patients,
        held_out=others,
        state=state,
        key=load_or_create_key(StateFolder(state).key),
        policy=policy or _permissive(config),
        simulated=True,
    )


def read_trial_policy(path: Path) -> SitePolicy:
    """A policy to try in a simulation. It needs no signature: the researcher owns the data and signs for nobody.

    Raises:
        PolicyError: it cannot be read.
    """
    try:
        return SitePolicy.parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path}: cannot be read: {error}") from error


def _permissive(config: RunConfig) -> SimulationPolicy:
    return SimulationPolicy(Budget(config.privacy.target_epsilon, config.privacy.delta))


class _Sites:
    """The sites of one run that this process has opened; each is opened once, however many there are."""

    def __init__(self, config: RunConfig, count: int, table: Path | None) -> None:
        self._config, self._manifest = config, simulated_manifest(config, table)
        self._names = self._manifest.sites
        self._opened: dict[tuple[int, Path], Site] = {}
        if count != len(self._names):
            raise DataError(
                f"{self._manifest.root} has {len(self._names)} sites ({', '.join(self._names[:20])}), but the "
                f"federation has {count} nodes. Start one node a site"
            )

    def open(self, partition: int, state: Path) -> Site:
        """The site of a place in the table that keeps its state there."""
        if (site := self._opened.get((partition, state))) is None:
            manifest = site_manifest(self._manifest, self._names[partition])
            site = self._opened[partition, state] = open_simulated(manifest, self._config, state)
        return site


@lru_cache(maxsize=2)
def _sites(config: RunConfig, count: int, table: Path | None) -> _Sites:
    return _Sites(config, count, table)
