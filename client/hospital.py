"""A deployed site: a folder at the hospital that says where its data are and what its privacy officer allows.

    site.toml               the site's name, data set and columns; see `SiteConfig`
    site-policy.toml        what may be asked of it, and site-policy.toml.sig, the officer's signature
    officer.pub             the privacy officer's public key; second-officer.pub, if there is one
    state/                  site.key, ledger.db and its anchor, log, answers given: on a local disk, never restored

Where the records are, whose they are and which rows are offered is the site's to say. A run names the columns to
learn from, which the policy must list.
"""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.judge import INSTALLED, asked
from client.model import check_weights
from client.site import Site, ledger_file, split_patients
from client.trial import try_run
from mmmed.config import RunConfig
from mmmed.config.schema import Scalar
from mmmed.data.image_approvals import waiting_note
from mmmed.data.loader import load_site
from mmmed.data.manifest import Manifest, read_manifest
from mmmed.deidentify.keys import key_of
from mmmed.errors import ConfigError
from mmmed.models import load_tokenizer
from privacy.errors import LedgerError, PlanError, PolicyError
from privacy.keys import load_or_create_key, load_public_key
from privacy.ledger import Ledger
from privacy.policy import SignedPolicy, load_policy, open_ledger

log = logging.getLogger(__name__)

FILE = "site.toml"
POLICY = "site-policy.toml"
OFFICER, SECOND_OFFICER = "officer.pub", "second-officer.pub"
KEY = "site.key"


class SiteConfig(BaseModel):
    """site.toml. Relative paths are from the site's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1]
    name: str = Field(pattern=r"^[^\W_][\w .-]{0,63}$", description="the site's name in every run")
    dataset: Path = Field(Path("dataset"), description="what `mmmed site ingest` wrote")
    table: str = Field("data.parquet", description="its table of studies")
    patient: str = Field("patient_id", description="column: the patient, whose privacy is kept")
    study: str = Field("study_id", description="column: the study")
    site: str = Field("site", description="column: the site")
    where: dict[str, Scalar | tuple[Scalar, ...]] = Field(
        {}, description="offer only rows whose column equals the value, or one of the values"
    )
    state: Path = Field(Path("state"), description="key, ledger and log; a local disk")
    approval: bool = Field(False, description="hold each new run until `mmmed site approve`")


class SiteFolder:
    """A site's folder, whose site.toml is valid."""

    def __init__(self, path: Path) -> None:
        """Read the folder's site.toml.

        Raises:
            ConfigError: it cannot be read, or a key is wrong.
        """
        self.path, file = path, path / FILE
        try:
            self.config = SiteConfig.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
        except OSError as error:
            raise ConfigError(
                f"{file}: cannot be read ({error.strerror}). Expected a site's folder"
            ) from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{file}: not valid TOML: {error}") from error
        except ValidationError as error:
            problems = (f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
            raise ConfigError("\n".join(f"{file}: {problem}" for problem in problems)) from error

    @property
    def state(self) -> Path:
        """Folder of the site's key, ledger and log."""
        return self.path / self.config.state

    @property
    def dataset(self) -> Path:
        """Folder of the site's data set."""
        return self.path / self.config.dataset

    def policy(self) -> SignedPolicy:
        """The signed policy.

        Raises:
            PolicyError: it is missing, malformed, not signed by the officer, or another site's.
        """
        second = self.path / SECOND_OFFICER
        signed = load_policy(
            self.path / POLICY,
            load_public_key(self.path / OFFICER),
            load_public_key(second) if second.exists() else None,
        )
        if signed.policy.site != self.config.name:
            raise PolicyError(
                f"{self.path / POLICY} is for site {signed.policy.site!r}, but {FILE} names {self.config.name!r}."
            )
        return signed

    def ledger(self, signed: SignedPolicy) -> Ledger:
        """The site's ledger, under its policy; key and ledger are made at the site's first start.

        Raises:
            PolicyRefusal: the policy widens the one before without a second signature.
            LedgerError: the ledger cannot be trusted, read or written, or it or its key is gone.
        """
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        file, key = ledger_file(self.state), self.state / KEY
        if key.exists() and not file.exists():
            raise LedgerError(
                f"{file} is gone but {key} is there: restore the newest ledger. A new one would forget what the "
                f"patients were spent. If this site never answered a request, delete {key}."
            )
        if file.exists() and not key.exists():
            raise LedgerError(
                f"{key} is gone but {file} is there: restore the key from its backup. Without it nobody can say "
                "whether the ledger is whole, nor who its patients are: if the key is lost, take these patients out of "
                "the data set and begin with an empty state folder."
            )
        return open_ledger(file, load_or_create_key(key), signed)

    def data_config(self, config: RunConfig) -> RunConfig:
        """`config` with the site's own table, columns and rows in place of the server's.

        Raises:
            ConfigError: the run filters a column that the site filters itself.
        """
        own, data = self.config, config.data
        if both := sorted(set(own.where) & set(data.where)):
            raise ConfigError(f"data.where: the rows by {both} are this site's to choose: leave it out")
        places = {"source": str(self.dataset), "table": own.table, "drop_shared_patients": False}
        columns = {"patient": own.patient, "study": own.study, "site": own.site}
        changed = data.model_copy(update={**places, **columns, "where": {**data.where, **own.where}})
        return config.model_copy(update={"data": changed})

    def manifest(self, config: RunConfig) -> Manifest:
        """The table of studies as a run may use it. `config` is of `data_config`.

        Rows that do not fit what the run asks are left out, or miss the value: a refusal would tell of them. The log
        says so, and that images wait. `mmmed site check` lists them before there is any run.

        Raises:
            DataError: the table as a whole cannot be read, or lacks a column.
        """
        manifest = read_manifest(self.dataset, config.data, config.task, log.warning)
        if manifest.waiting:
            log.warning(waiting_note(manifest.root, manifest.waiting))
        return manifest


def open_hospital(
    path: Path, config: RunConfig, purpose: str, apps: Sequence[str], frozen: Mapping[str, str] | None
) -> Site:
    """Open the site of a folder, for a request that its policy allows. See `client.node.open_site`.

    `apps` are the names of the bundle that brought the request. No code of a bundle ever runs here, so that a policy
    that names "installed" allows any. `frozen` is None for what the site does on its own, without a server.
    """
    folder = SiteFolder(path)
    signed = folder.policy()
    allowed = (name for name in (INSTALLED, *apps) if name in signed.policy.apps)
    with folder.ledger(signed) as ledger:
        signed.policy.check(asked(config, purpose, next(allowed, apps[0])), ledger.now())
    if frozen is not None:
        check_weights(config, frozen)
    try_run(config)
    config = folder.data_config(config)
    manifest = folder.manifest(config)
    patients, others = split_patients(manifest, config)
    if not patients:
        raise PlanError("There is no patient to train on as the run asks.")
    tokenizer = load_tokenizer(config.model.text) if config.data.text else None
    return Site(
        name=folder.config.name,
        data=load_site(manifest, config, tokenizer, folder.state / "images"),
        patients=patients,
        held_out=others,
        state=folder.state,
        key=load_or_create_key(folder.state / KEY),
        policy=signed.policy,
        simulated=False,
        pseudonyms=key_of(folder.dataset),
    )


def state_of(path: Path) -> Path:
    """The site's state folder, also while its site.toml cannot be read."""
    try:
        return SiteFolder(path).state
    except ConfigError:
        return path / "state"
