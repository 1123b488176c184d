"""From a node's own configuration to its site, opened for a request that the site's policy allows.

The policy is judged, then the frozen weights are compared with the server's, before any record is read. From the
server comes no more than the run's configuration and its digests.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from client.hospital import open_hospital
from client.run_request import INSTALLED
from client.simulated import POLICY, open_partition, partition_name
from client.simulated import state_of as simulated_state
from client.site import Site
from client.site_folder import SiteFolder
from mmmed.config import RunConfig
from mmmed.errors import DataError

SITE_DIR = "site-dir"
APP = "app"  # names of the bundle that brought the run, by which the policy may know it; set by the runner


def open_site(node: Mapping[str, object], config: RunConfig, purpose: str, frozen: Mapping[str, str]) -> Site:
    """Open the site that a node's own configuration names, for one request.

    Args:
        node: the node's configuration: ``site-dir`` at a hospital, else ``partition-id`` and
            ``num-partitions`` in a simulation.
        config: the run's configuration.
        purpose: what the data are wanted for, `privacy.policy.TRAINING` or `EVALUATION`.
        frozen: the server's digests of what is not trained, `mmmed.models.frozen_digests`.

    Raises:
        PolicyError: the site's policy is missing, not signed as it must be, or does not allow the request.
        WeightsDiffer: what is not trained is not the same here as at the server.
        DataError: the site's data cannot be used as the run asks.
        ConfigError: what the run filters is the site's own to filter.
    """
    if SITE_DIR in node:
        return open_hospital(_folder(node), config, purpose, str(node.get(APP, INSTALLED)).split(), frozen)
    return open_partition(node, config, purpose, frozen)


def site_name(node: Mapping[str, object], config: RunConfig) -> str:
    """The site's name, found without opening a hospital's data."""
    if SITE_DIR in node:
        return SiteFolder(_folder(node)).config.name
    return partition_name(node, config)


def shows_everything(node: Mapping[str, object]) -> bool:
    """Whether the site is simulated and has no policy, so that it shows its metrics in every round."""
    return SITE_DIR not in node and POLICY not in node


def state_dir(node: Mapping[str, object]) -> Path:
    """The folder of the site's state and log, found even if the site cannot be opened."""
    return SiteFolder(_folder(node)).logging_state.path if SITE_DIR in node else simulated_state(node)


def _folder(node: Mapping[str, object]) -> Path:
    folder = node[SITE_DIR]
    if not isinstance(folder, str) or not folder:
        raise DataError(f"the node's configuration: {SITE_DIR} must name the site's folder. Found {folder!r}")
    return Path(folder)
