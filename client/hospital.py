"""A deployed site: a folder at the hospital that says where its data are and what its privacy officer allows.

Where the records are, whose they are and which rows are offered is the site's to say (`client.site_folder`). A run
names the columns to learn from, which the policy must list.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from client.opt_outs import list_in_force
from client.records_lock import reading_records
from client.run_request import INSTALLED, run_request
from client.site import Site, split_patients
from client.site_folder import SiteFolder
from mmmed.config import RunConfig
from mmmed.data.image_approvals import waiting_note
from mmmed.data.loader import open_site_data
from mmmed.data.made_up import nobodys_data
from mmmed.data.manifest import Manifest, read_manifest
from mmmed.deidentify.keys import key_of
from privacy.errors import PlanError
from privacy.keys import load_or_create_key
from privacy.policy import Policy, SitePolicy, check_successor

log = logging.getLogger(__name__)


def site_manifest(folder: SiteFolder, config: RunConfig) -> Manifest:
    """The table of studies that a run may use, without patients who have withdrawn.

    `config` comes from `SiteFolder.data_config`.

    Rows that do not fit what the run asks are left out, or miss the value: a refusal would reveal them. The log
    says so, and that images wait. `mmmed site check` lists them before there is any run.

    Raises:
        DataError: the table as a whole cannot be read, or lacks a column; or the opt-out list cannot be trusted.
    """
    manifest = read_manifest(
        folder.dataset, config.data, config.task, log.warning, without=list_in_force(folder)
    )
    if manifest.waiting:
        log.warning(waiting_note(manifest.root, manifest.waiting))
    return manifest


class Hospital:
    """The place of a deployed site: its folder. See `client.gate.Place`.

    Args:
        path: the site's folder.
        apps: names of the bundle that brings the requests. No code of a bundle ever runs here, so a policy that names
            "installed" allows any bundle.
    """

    shows_everything = False

    def __init__(self, path: Path, apps: Sequence[str] = (INSTALLED,)) -> None:
        self._folder, self._apps = SiteFolder(path), apps

    @property
    def state(self) -> Path:
        return self._folder.logging_state.path

    def name(self, config: RunConfig) -> str:
        return self._folder.config.name

    def in_use(self) -> AbstractContextManager[None]:
        return reading_records(self._folder.logging_state.records_lock)

    def judge(self, config: RunConfig, purpose: str) -> Policy:
        signed = self._folder.policy()
        with self._folder.ledger(signed) as ledger:
            ledger.note_clock()
            self._check(signed.policy, config, purpose, ledger.clock().latest)
        return signed.policy

    def foresee(self, config: RunConfig, purpose: str) -> None:
        signed, now = self._folder.policy(), time.time()
        if self._folder.state.holds_ledger():
            with self._folder.state.inspect() as ledger:
                check_successor(ledger, signed)
                now = ledger.clock().latest
        self._check(signed.policy, config, purpose, now)

    @property
    def approves(self) -> bool:
        return self._folder.config.approval

    def _check(self, policy: SitePolicy, config: RunConfig, purpose: str, now: float) -> None:
        allowed = (name for name in (INSTALLED, *self._apps) if name in policy.apps)
        policy.check(run_request(config, purpose, next(allowed, self._apps[0])), now)

    def open(self, config: RunConfig, policy: Policy) -> Site:
        folder = self._folder
        config = folder.data_config(config)
        manifest = site_manifest(folder, config)
        patients, others = split_patients(manifest, config)
        if (
            not patients and policy.patients is None
        ):  # where a number is stated, whether there is one must not show
            raise PlanError("There is no patient to train on as the run asks.")
        return Site(
            name=folder.config.name,
            data=open_site_data(manifest, config, folder.state.images)
            if len(manifest.records)
            else nobodys_data(config),
            patients=patients,
            held_out=others,
            state=folder.state.path,
            key=load_or_create_key(folder.state.key),
            policy=policy,
            simulated=False,
            pseudonyms=key_of(folder.dataset),
        )
