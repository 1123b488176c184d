"""A deployed site: a folder at the hospital that says where its data are and what its privacy officer allows.

Where the records are, whose they are and which rows are offered is the site's to say (`client.site_folder`). A run
names the columns to learn from, which the policy must list.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from client.model import check_weights
from client.run_request import INSTALLED, run_request
from client.site import Site, split_patients
from client.site_folder import SiteFolder
from client.trial import try_run
from mmmed.config import RunConfig
from mmmed.data.image_approvals import waiting_note
from mmmed.data.loader import open_site_data
from mmmed.data.manifest import Manifest, read_manifest
from mmmed.deidentify.keys import key_of
from privacy.errors import PlanError
from privacy.keys import load_or_create_key

log = logging.getLogger(__name__)


def site_manifest(folder: SiteFolder, config: RunConfig) -> Manifest:
    """The table of studies that a run may use. `config` comes from `SiteFolder.data_config`.

    Rows that do not fit what the run asks are left out, or miss the value: a refusal would reveal them. The log
    says so, and that images wait. `mmmed site check` lists them before there is any run.

    Raises:
        DataError: the table as a whole cannot be read, or lacks a column.
    """
    manifest = read_manifest(folder.dataset, config.data, config.task, log.warning)
    if manifest.waiting:
        log.warning(waiting_note(manifest.root, manifest.waiting))
    return manifest


def open_hospital(
    path: Path, config: RunConfig, purpose: str, apps: Sequence[str], frozen: Mapping[str, str] | None
) -> Site:
    """Open the site of a folder, for a request that its policy allows. See `client.gate.open_site`.

    No code of a bundle ever runs here, so a policy that names "installed" allows any bundle.

    Args:
        path: the site's folder.
        config: the run's configuration.
        purpose: what the data are wanted for, `privacy.policy.TRAINING` or `EVALUATION`.
        apps: names of the bundle that brought the request.
        frozen: the server's digests of what is not trained; None for what the site does on its own, without a server.

    Raises:
        PolicyError, LedgerError: the policy is missing or not signed as it must be, or the ledger cannot be trusted.
        PolicyRefusal: the policy does not allow the request.
        WeightsDiffer: what is not trained differs from what the server has.
        DataError, ConfigError: the data cannot be used as the run asks.
        PlanError: no patient is left to train on.
    """
    folder = SiteFolder(path)
    signed = folder.policy()
    allowed = (name for name in (INSTALLED, *apps) if name in signed.policy.apps)
    with folder.ledger(signed) as ledger:
        signed.policy.check(run_request(config, purpose, next(allowed, apps[0])), ledger.now())
    if frozen is not None:
        check_weights(config, frozen)
    try_run(config)
    config = folder.data_config(config)
    manifest = site_manifest(folder, config)
    patients, others = split_patients(manifest, config)
    if not patients:
        raise PlanError("There is no patient to train on as the run asks.")
    return Site(
        name=folder.config.name,
        data=open_site_data(manifest, config, folder.state.images),
        patients=patients,
        held_out=others,
        state=folder.state.path,
        key=load_or_create_key(folder.state.key),
        policy=signed.policy,
        simulated=False,
        pseudonyms=key_of(folder.dataset),
    )
