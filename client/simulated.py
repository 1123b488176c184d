"""A site of a simulation: one of several in one table, on the researcher's own machine."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from client.mechanism import local_schedule
from client.model import built_by, check_weights
from client.run_request import INSTALLED, run_request
from client.site import Site, split_patients
from client.site_folder import STATE, StateFolder
from client.trial import try_run
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


def open_partition(
    node: Mapping[str, object], config: RunConfig, purpose: str, frozen: Mapping[str, str]
) -> Site:
    """Open the site that ``partition-id`` numbers. See `client.gate.open_site`."""
    policy = _policy(node, config)
    policy.check(run_request(config, purpose, INSTALLED), time.time())
    check_weights(config, frozen)
    try_run(config)
    return replace(_partition(node, config), policy=policy)


def partition_name(node: Mapping[str, object], config: RunConfig) -> str:
    """The name of the site that ``partition-id`` numbers."""
    return _partition(node, config).name


def state_of(node: Mapping[str, object]) -> Path:
    """The node's own ``state-dir``, else a folder below `$MMMED_STATE_DIR` or the home."""
    own = node.get("state-dir")
    if isinstance(own, str) and own:
        return Path(own)
    root = os.environ.get(STATE_DIR)
    return (Path(root) if root else Path.home() / ".mmmed" / STATE) / f"site-{node.get('partition-id')}"


def simulated_manifest(config: RunConfig) -> Manifest:
    """The table of all simulated sites; one that has not changed is read once a process."""
    root = locate(config.data.source)
    path = table_file(root, config.data)
    stat = path.stat() if path.is_file() else None
    stamp = (stat.st_size, stat.st_mtime_ns, stat.st_ino) if stat else (0, 0, 0)
    return _read(root, config.data, config.task, stamp)


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
    """Open one site, whose records are `manifest`; by default everything within the run's target is allowed."""
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


def _policy(node: Mapping[str, object], config: RunConfig) -> Policy:
    path, epsilon, delta = node.get(POLICY), node.get("limit-epsilon"), node.get("limit-delta")
    if isinstance(path, str):
        return read_trial_policy(Path(path))
    if isinstance(epsilon, float) and isinstance(delta, float):
        return SimulationPolicy(Budget(epsilon, delta))
    return _permissive(config)


def _permissive(config: RunConfig) -> SimulationPolicy:
    return SimulationPolicy(Budget(config.privacy.target_epsilon, config.privacy.delta))


def _partition(node: Mapping[str, object], config: RunConfig) -> Site:
    partition, count = node.get("partition-id"), node.get("num-partitions")
    if not isinstance(partition, int) or not isinstance(count, int):
        raise DataError(
            "the node's configuration names no site: expected site-dir, or partition-id and num-partitions"
        )
    return _open(config, partition, count, state_of(node))


@lru_cache(maxsize=64)
def _open(config: RunConfig, partition: int, count: int, state: Path) -> Site:
    manifest = simulated_manifest(config)
    if count != len(manifest.sites):
        raise DataError(
            f"{manifest.root} has {len(manifest.sites)} sites ({', '.join(manifest.sites)}), but the federation "
            f"has {count} nodes. Start one node a site"
        )
    return open_simulated(site_manifest(manifest, manifest.sites[partition]), config, state)
