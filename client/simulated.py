"""A site of a simulation: one of several in one table, on the researcher's own machine."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from client.mechanism import local_schedule
from client.model import check_weights
from client.run_request import INSTALLED, run_request
from client.site import Site, split_patients
from client.site_folder import STATE, StateFolder
from client.trial import try_run
from mmmed.config import RunConfig
from mmmed.data.loader import open_site_data
from mmmed.data.manifest import Manifest, read_manifest
from mmmed.data.source import locate
from mmmed.errors import DataError
from mmmed.paths import image_cache
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
    """Open the site that ``partition-id`` numbers, for one request.

    Args:
        node: the node's configuration: ``partition-id`` and ``num-partitions``; perhaps ``state-dir``, and a
            ``policy`` file or ``limit-epsilon`` and ``limit-delta``.
        config: the run's configuration.
        purpose: what the data are wanted for, `privacy.policy.TRAINING` or `EVALUATION`.
        frozen: the server's digests of what is not trained, `mmmed.models.frozen_digests`.

    Raises:
        PolicyError: the trial policy cannot be read, or does not allow the request.
        WeightsDiffer: what is not trained is not the same here as at the server.
        ModelError: the model cannot be built, run or trained here.
        PrivacyError: the model cannot be trained privately.
        DataError: the configuration names no site, or the site's data cannot be used as the run asks.
    """
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
    """The table of all simulated sites."""
    return read_manifest(locate(config.data.source), config.data, config.task)


def check_site(manifest: Manifest, config: RunConfig) -> int:
    """Check that a site's records can train as the run asks; returns how many patients it trains on.

    Reads and caches the images; keeps no other state.

    Raises:
        DataError: unreadable images, or no patient to train on.
        PlanError: delta or batch size does not suit the site.
    """
    patients = open_site_data(manifest, config, image_cache()).train.patients
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
    patients, others = split_patients(manifest, config)
    return Site(
        name=manifest.sites[0],
        data=open_site_data(manifest, config, image_cache()),
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
    return open_simulated(manifest.of_site(manifest.sites[partition]), config, state)
