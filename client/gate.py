"""From a node's own configuration to its site, opened for a request that the site's policy allows.

Before any record is read the policy judges the request, the frozen weights are compared with the server's, and the run
is tried on made-up records. From the server comes no more than the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from client.hospital import Hospital
from client.model import check_weights
from client.run_request import INSTALLED
from client.simulated import Partition
from client.site import Site
from client.trial import try_run
from mmmed.config import RunConfig
from mmmed.errors import DataError
from mmmed.federation.protocol import Request
from privacy.ledger import Receipt
from privacy.policy import Policy
from privacy.secure_sum import Terms

SITE_DIR = "site-dir"
APP = "app"  # names of the bundle that brought the run, by which the policy may know it; set by the runner


class Place(Protocol):
    """Where a site lies, before it is opened: `client.hospital.Hospital` or `client.simulated.Partition`."""

    @property
    def state(self) -> Path:
        """The folder of the site's state and log, found even if the site cannot be opened."""

    @property
    def shows_everything(self) -> bool:
        """Whether the site is simulated and has no policy, so that it shows its metrics in every round."""

    def name(self, config: RunConfig) -> str:
        """The site's name, found without opening a hospital's data."""

    def in_use(self) -> AbstractContextManager[None]:
        """Held while a request is answered, so that nothing is erased that it reads (`client.records_lock`)."""

    def judge(self, config: RunConfig, purpose: str) -> Policy:
        """The site's policy, which allows the request. No record is read.

        Args:
            config: the run's configuration.
            purpose: what the data are wanted for, `privacy.policy.TRAINING`, `EVALUATION` or `TUNING`.

        Raises:
            PolicyError: the policy is missing or not signed as it must be.
            LedgerError: the ledger cannot be trusted.
            PolicyRefusal: the policy does not allow the request.
        """

    def foresee(self, config: RunConfig, purpose: str) -> None:
        """Raise what `judge` would, but leave policy, ledger and clock as they are."""

    @property
    def approves(self) -> bool:
        """Whether somebody at the site approves each run before anything else."""

    def open(self, config: RunConfig, policy: Policy) -> Site:
        """The site, its records read for a request that `policy` allows.

        Raises:
            DataError, ConfigError: the data cannot be used as the run asks.
            PlanError: no patient is left to train on.
        """


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
        SecureSumRefusal: the terms of a run of masked sums are not what they should be.
        WeightsDiffer: what is not trained is not the same here as at the server.
        ModelError, PrivacyError: the run cannot work, as made-up records show.
        DataError, ConfigError: the site's data cannot be used as the run asks.
        PlanError: no patient is left to train on.
        LedgerError: the ledger cannot be trusted, or is not the one that the server has seen last.
    """
    policy = place.judge(request.config, purpose)
    if request.sum is not None and request.sum.terms:
        policy.check_peers(Terms.parse(request.sum.terms))
    check_weights(request.config, request.frozen)
    try_run(request.config)
    site = place.open(request.config, policy)
    if request.receipt:
        with site.ledger() as ledger:
            ledger.check_receipt(Receipt.from_json(request.receipt))
    return site
