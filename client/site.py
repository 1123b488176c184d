"""An opened site: its data, its state folder, its key, its ledger and its policy."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.release import Spending
from client.site_folder import StateFolder
from mmmed.config import RunConfig
from mmmed.data.loader import SiteData
from mmmed.data.manifest import Manifest
from mmmed.data.split import held_out
from privacy.keys import derive_secret
from privacy.ledger import DatasetIdentity, Ledger, Plan, dataset_identity
from privacy.policy import SHOWN, Policy
from privacy.report import Asked, Shared, sign_statement


@dataclass(frozen=True)
class Site:
    """One site, ready to answer requests of one run configuration.

    Attributes:
        name: the site's name.
        data: its records, split into training and held out.
        patients: ids of the patients that it trains on; they stay here.
        held_out: ids of the others, who are for evaluation alone.
        state: folder of what it keeps between rounds: key, ledger, releases, progress, log.
        key: signs its ledger and its statements.
        policy: what its privacy officer allows.
        pseudonyms: commitment to the key that named the patients at ingest; "" if they came with their names.
        simulated: the data are generated or public, on the researcher's own machine.
    """

    name: str
    data: SiteData
    patients: tuple[str, ...]
    held_out: tuple[str, ...]
    state: Path
    key: Ed25519PrivateKey
    policy: Policy
    simulated: bool
    pseudonyms: str = ""

    def ledger(self) -> Ledger:
        """Open the site's ledger.

        Raises:
            LedgerError: it is unreadable, edited or belongs to another key.
        """
        return Ledger.open(StateFolder(self.state).ledger, self.key, limit=self.policy.limit)

    @property
    def public_key(self) -> str:
        """By which its statements are checked: Ed25519, hexadecimal."""
        return self.key.public_key().public_bytes_raw().hex()

    @property
    def identity(self) -> DatasetIdentity:
        """The training patients as keyed digests; the ledger charges them for training."""
        return self._identity(self.patients)

    @property
    def held_out_identity(self) -> DatasetIdentity:
        """The held-out patients as keyed digests; the ledger charges them for evaluation."""
        return self._identity(self.held_out)

    def shows_metrics(self, config: RunConfig) -> bool:
        """Whether metrics may leave this site without privacy in a run of this configuration."""
        rule = self.policy.metric_rule(config.task.target().score.name)
        return rule == SHOWN or (rule == config.privacy.metrics == "rounded")

    def spending(
        self,
        ledger: Ledger,
        plan: Plan,
        steps: int,
        *,
        metrics_shown: bool,
        asked: Asked | None = None,
        shared: Shared | None = None,
    ) -> Spending:
        """What the site states about its privacy, once steps of a plan are committed; signed.

        Args:
            ledger: the site's.
            plan: what was charged.
            steps: of this answer, as they were reserved.
            metrics_shown: whether metrics may leave without privacy in this run.
            asked: what the run asks for, of a training plan; None for another plan.
            shared: how the noise is shared, of a run of masked sums.
        """
        stated = sign_statement(
            ledger,
            plan,
            site=self.name,
            key=self.key,
            metrics_shown=metrics_shown,
            asked=asked,
            shared=shared,
        )
        return Spending(
            epsilon=ledger.spent(plan.delta, run_id=plan.run_id),
            planned_epsilon=plan.epsilon,
            delta=plan.delta,
            noise_multiplier=plan.mechanism.noise_multiplier,
            sampling_rate=plan.mechanism.sampling_rate,
            steps=steps,
            max_grad_norm=plan.max_grad_norm,
            statement=json.dumps(stated, separators=(",", ":")),
            receipt=ledger.receipt().to_json(),
        )

    def _identity(self, patients: tuple[str, ...]) -> DatasetIdentity:
        return _identity(patients, _patient_secret(self.key), self.pseudonyms)


@lru_cache(maxsize=16)
def _identity(patients: tuple[str, ...], secret: bytes, pseudonyms: str) -> DatasetIdentity:
    return dataset_identity(patients, secret, pseudonyms)


def _patient_secret(key: Ed25519PrivateKey) -> bytes:
    return derive_secret(key, b"patient digests")


def patient_digests(key: Ed25519PrivateKey, names: Iterable[str]) -> frozenset[bytes]:
    """What the ledger of the site of this key calls patients of these names."""
    return dataset_identity(names, _patient_secret(key)).digests


def split_patients(manifest: Manifest, config: RunConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids of the patients to train on, sorted, and ids of the held-out patients, sorted."""
    test = held_out(manifest, config.data, config.training.seed)
    patients = manifest.records["patient"].astype(str)
    return tuple(sorted(set(patients[~test]))), tuple(sorted(set(patients[test])))
