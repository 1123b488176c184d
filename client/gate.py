"""From a node's own configuration to its site, opened for a request that the site's policy allows.

Before any record is read the policy judges the request, the frozen weights are compared with the server's, and the run
is tried on made-up records. From the server comes no more than the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from client.hospital import Hospital
from client.model import check_weights
from client.run_request import INSTALLED
from client.simulated import Partition
from client.site import Place, Site
from client.trial import try_run
from mmmed.errors import DataError
from mmmed.federation.protocol import Request
from privacy.ledger import Receipt

SITE_DIR = "site-dir"
APP = "app"  # names of the bundle that brought the run, by which the policy may know it; set by the runner


def place_of(node: Mapping[str, object]) -> Place:
    """Where the site lies that a node's own configuration names.

    Args:
        node: ``site-dir`` at a hospital, else ``partition-id`` and ``num-partitions`` in a simulation.

    Raises:
        DataError: ``site-dir`` names no folder.
    """
    if SITE_DIR not in node:
        return Partition(node)
    folder = node[SITE_DIR]
    if not isinstance(folder, str) or not folder:
        raise DataError(f"the node's configuration: {SITE_DIR} must name the site's folder. Found {folder!r}")
    return Hospital(Path(folder), str(node.get(APP, INSTALLED)).split())


def open_site(place: Place, request: Request, purpose: str) -> Site:
    """Open a site for one request.

    Args:
        place: where it lies.
        request: what the server asks.
        purpose: what the data are wanted for, `privacy.policy.TRAINING` or `EVALUATION`.

    Raises:
        PolicyError, PolicyRefusal: the site's policy is missing, not signed as it must be, or does not allow it.
        WeightsDiffer: what is not trained is not the same here as at the server.
        ModelError, PrivacyError: the run cannot work, as made-up records show.
        DataError, ConfigError: the site's data cannot be used as the run asks.
        PlanError: no patient is left to train on.
        LedgerError: the ledger cannot be trusted, or is not the one that the server has seen last.
    """
    policy = place.judge(request.config, purpose)
    check_weights(request.config, request.frozen)
    try_run(request.config)
    site = place.open(request.config, policy)
    if request.receipt:
        with site.ledger() as ledger:
            ledger.check_receipt(Receipt.from_json(request.receipt))
    return site
