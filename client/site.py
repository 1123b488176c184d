"""An opened hospital: its data, its state folder, its key and its ledger.

A site is opened from its own node configuration. Nothing here is taken from the server but the names of
columns and sizes in the run configuration.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.keys import derive_secret, load_or_create_key
from mmmed.config import RunConfig, from_flat
from mmmed.config.sources import flat_from_json
from mmmed.data.loader import SiteData, load_site
from mmmed.data.manifest import Manifest, read_manifest
from mmmed.data.source import locate
from mmmed.data.split import held_out
from mmmed.errors import DataError
from mmmed.models import load_tokenizer
from mmmed.paths import cache_home
from privacy.errors import PlanError
from privacy.ledger import Budget, DatasetIdentity, Ledger, dataset_identity
from privacy.planning import check_delta, schedule

STATE_DIR = "MMMED_STATE_DIR"


@dataclass(frozen=True)
class Site:
    """One hospital, ready to take part in runs of one data configuration.

    Attributes:
        name: the site's name.
        data: its records, split into training and held out.
        patients: ids of the patients that it trains on; they stay here.
        limit: the most that any of its patients may be spent, by all runs together.
        state: folder of what it keeps between rounds: key, ledger, releases, progress.
        simulated: the data are generated or public, on the researcher's own machine, so that results may
            be shown in full.
    """

    name: str
    data: SiteData
    patients: tuple[str, ...]
    state: Path
    key: Ed25519PrivateKey
    limit: Budget
    simulated: bool

    def ledger(self) -> Ledger:
        """Open the site's ledger.

        Raises:
            LedgerError: it is unreadable, edited or belongs to another key.
        """
        return Ledger.open(self.state / "ledger.db", self.key, limit=self.limit)

    @property
    def identity(self) -> DatasetIdentity:
        """The training patients as keyed digests: what the ledger charges."""
        return dataset_identity(self.patients, derive_secret(self.key, b"patient digests"))


def open_site(node: Mapping[str, object], run_config: str) -> Site:
    """Open the site that a node's own configuration names, for a run configuration (JSON of its flat form).

    Raises:
        DataError: the site's data cannot be used as the run asks.
        ConfigError: the run configuration is not valid.
    """
    partition, count = node.get("partition-id"), node.get("num-partitions")
    if not isinstance(partition, int) or not isinstance(count, int):
        raise DataError("the node's configuration names no site: expected partition-id and num-partitions")
    return _simulated(run_config, partition, count, state_dir(node), _limit(node))


def state_dir(node: Mapping[str, object]) -> Path:
    """Where the node's site keeps its state: its own ``state-dir``, else below `$MMMED_STATE_DIR` or the home."""
    own = node.get("state-dir")
    if isinstance(own, str) and own:
        return Path(own)
    root = os.environ.get(STATE_DIR)
    return (Path(root) if root else Path.home() / ".mmmed" / "state") / f"site-{node.get('partition-id')}"


def _limit(node: Mapping[str, object]) -> Budget | None:
    epsilon, delta = node.get("limit-epsilon"), node.get("limit-delta")
    return Budget(epsilon, delta) if isinstance(epsilon, float) and isinstance(delta, float) else None


@lru_cache(maxsize=64)
def _simulated(run_config: str, partition: int, count: int, state: Path, limit: Budget | None) -> Site:
    config = from_flat(flat_from_json(run_config))
    manifest = simulated_manifest(config)
    if count != len(manifest.sites):
        raise DataError(
            f"{manifest.root} has {len(manifest.sites)} sites ({', '.join(manifest.sites)}), but the federation "
            f"has {count} nodes. Start one node a site"
        )
    return open_simulated(manifest.of_site(manifest.sites[partition]), config, state, limit)


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
    tokenizer = load_tokenizer(config.model.text) if config.data.text else None
    patients = load_site(manifest, config, tokenizer, cache_home() / "images").train.patients
    try:
        if config.privacy.enabled:
            check_delta(config.privacy.delta, patients)
        schedule(
            patients=patients,
            batch_size=config.training.batch_size,
            local_epochs=config.training.local_epochs,
        )
    except PlanError as error:
        raise PlanError(f"site {manifest.sites[0]} ({patients} patients to train on): {error}") from error
    return patients


def open_simulated(manifest: Manifest, config: RunConfig, state: Path, limit: Budget | None = None) -> Site:
    """Open one site of a simulation, whose records are `manifest`; by default the run's target is its limit."""
    state.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(config.model.text) if config.data.text else None
    train = ~held_out(manifest, config.data, config.training.seed)
    return Site(
        name=manifest.sites[0],
        data=load_site(manifest, config, tokenizer, cache_home() / "images"),
        patients=tuple(np.unique(manifest.records["patient"][train].to_numpy().astype(str))),
        state=state,
        key=load_or_create_key(state / "site.key"),
        limit=limit or Budget(config.privacy.target_epsilon, config.privacy.delta),
        simulated=True,
    )
