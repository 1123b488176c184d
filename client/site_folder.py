"""A site's folder: what lies where in it. No other module of a site or of the command knows a name of it.

    site.toml               the site's name, data set and columns; see `SiteConfig`
    site-policy.toml        what may be asked of it, and site-policy.toml.sig, the officer's signature
    officer.pub             the privacy officer's public key; second-officer.pub, if there is one
    node/                   what connects it to a federation; see `client.node.folder`
    watch/                  the log of a model in use, where the hospital asked for one; see `mmmed.watch`
    state/                  what it keeps; see `StateFolder`. site.toml may name another folder, on a local disk

Nothing heavy is imported here: commands that only look at a folder answer at once.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmmed.config.schema import Scalar
from mmmed.errors import ConfigError
from privacy.errors import LedgerError, PolicyError
from privacy.keys import load_key, load_or_create_key, load_public_key

if TYPE_CHECKING:  # the ledger brings SciPy along
    from mmmed.config import RunConfig
    from privacy.ledger import Ledger
    from privacy.policy import SignedPolicy

SITE, POLICY = "site.toml", "site-policy.toml"
OFFICER, SECOND_OFFICER = "officer.pub", "second-officer.pub"
STATE = "state"


class SiteConfig(BaseModel):
    """The contents of site.toml. Relative paths start from the site's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1]
    name: str = Field(pattern=r"^[^\W_][\w .-]{0,63}$", description="the site's name in every run")
    dataset: Path = Field(Path("dataset"), description="what `mmmed site ingest` wrote")
    table: str = Field("data.parquet", description="its table of studies")
    patient: str = Field("patient_id", description="column: the patient, whose privacy is kept")
    study: str = Field("study_id", description='column: the study; "" if each patient has one row')
    site: str = Field("site", description="column: the site")
    where: dict[str, Scalar | tuple[Scalar, ...]] = Field(
        {}, description="offer only rows whose column equals the value, or one of the values"
    )
    state: Path = Field(Path(STATE), description="key, ledger and log; a local disk")
    approval: bool = Field(False, description="hold each new run until `mmmed site approve`")


@dataclass(frozen=True)
class StateFolder:
    """What a site keeps between requests, in the folder `path`: on a local disk, never restored from a backup.

    site.key            signs the ledger and the site's statements
    ledger.db           what the patients were spent; its anchor is in the same folder
    site.log            refusals with their reasons
    progress.json       how far the round is that trains now
    released/           answers given
    secure_sums/        keys and last answer of each run of masked sums
    carried/            what is left from one round of a run to the next, a folder a run
    images/             decoded images of a deployed site
    withdrawn/          who has withdrawn, and the receipts (`client.opt_outs`)
    """

    path: Path

    @property
    def key(self) -> Path:
        """File of the site's private key."""
        return self.path / "site.key"

    @property
    def ledger(self) -> Path:
        """File of the site's ledger."""
        return self.path / "ledger.db"

    @property
    def log(self) -> Path:
        """File of the log of refusals."""
        return self.path / "site.log"

    @property
    def progress(self) -> Path:
        """File that says how far the current round is (`client.progress`)."""
        return self.path / "progress.json"

    @property
    def released(self) -> Path:
        """Folder of the stored answers (`client.answer_cache`)."""
        return self.path / "released"

    def carried(self, run_id: str) -> Path:
        """Folder of what a run's rounds pass on to the next round."""
        return self.path / "carried" / hashlib.sha256(run_id.encode()).hexdigest()[:32]

    def secure_sum(self, run_id: str) -> Path:
        """Folder of what a run of masked sums keeps (`privacy.secure_sum`), a folder a digest of its terms."""
        return self.path / "secure_sums" / hashlib.sha256(run_id.encode()).hexdigest()[:32]

    @property
    def images(self) -> Path:
        """Folder of the decoded images of a deployed site."""
        return self.path / "images"

    @property
    def withdrawn(self) -> Path:
        """Folder of the opt-out list and its receipts (`client.opt_outs`)."""
        return self.path / "withdrawn"

    @property
    def records_lock(self) -> Path:
        """File that is locked while patients' records are read (`client.records_lock`)."""
        return self.path / "records.lock"

    def holds_ledger(self) -> bool:
        """Whether the site has a key and a ledger, which its first request makes.

        Raises:
            LedgerError: one of the two is gone.
        """
        file, key = self.ledger, self.key
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
        return file.exists()

    def inspect(self) -> Ledger:
        """Open the ledger for reading, under the limit that it holds.

        Raises:
            LedgerError: there is none, its key is gone, or it cannot be read or trusted.
        """
        from privacy.ledger import Ledger

        if not self.holds_ledger():
            raise LedgerError(
                f"{self.ledger}: no such file. Expected a site's folder, or its state folder such as "
                "runs/<run>/sites/<site>."
            )
        return Ledger.inspect(self.ledger, load_key(self.key))


class SiteFolder:
    """A site's folder. Its site.toml is read once, when it is first needed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def file(self) -> Path:
        """The site's configuration file, site.toml."""
        return self.path / SITE

    @property
    def policy_file(self) -> Path:
        """The site's policy file; its signature lies in the same folder."""
        return self.path / POLICY

    def exists(self) -> bool:
        """Whether this is a site's folder: it has a site.toml."""
        return self.file.is_file()

    @cached_property
    def config(self) -> SiteConfig:
        """The validated contents of site.toml.

        Raises:
            ConfigError: it cannot be read, or a key is wrong.
        """
        try:
            return SiteConfig.model_validate(tomllib.loads(self.file.read_text(encoding="utf-8")))
        except OSError as error:
            raise ConfigError(
                f"{self.file}: cannot be read ({error.strerror}). Expected a site's folder"
            ) from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{self.file}: not valid TOML: {error}") from error
        except ValidationError as error:
            problems = (f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
            raise ConfigError("\n".join(f"{self.file}: {problem}" for problem in problems)) from error

    @property
    def state(self) -> StateFolder:
        """The site's state folder. Raises ConfigError like `config`."""
        return StateFolder(self.path / self.config.state)

    @property
    def logging_state(self) -> StateFolder:
        """The state folder whose log takes refusals; the default one while site.toml cannot be read."""
        try:
            return self.state
        except ConfigError:
            return StateFolder(self.path / STATE)

    @property
    def logged_states(self) -> tuple[StateFolder, ...]:
        """All state folders whose logs may hold refusals: the current one and the default one."""
        return tuple(dict.fromkeys((self.logging_state, StateFolder(self.path / STATE))))

    @property
    def dataset(self) -> Path:
        """Folder of the site's data set. Raises ConfigError like `config`."""
        return self.path / self.config.dataset

    @property
    def node(self) -> Path:
        """Folder of the keys and files that connect the site to a federation."""
        return self.path / "node"

    @property
    def watch(self) -> Path:
        """Folder of the log of a model in use, where its dashboard looks for one."""
        return self.path / "watch"

    def policy(
        self, file: Path | None = None, officer: Path | None = None, second: Path | None = None
    ) -> SignedPolicy:
        """The signed policy.

        Args:
            file: the policy; the site's own by default, as are the keys.
            officer: the privacy officer's public key.
            second: the second officer's; none by default where the site has none.

        Raises:
            PolicyError: it is missing, malformed, not signed by the officer, or another site's.
            ConfigError: site.toml cannot be read.
        """
        from privacy.policy import load_policy

        file, other = file or self.policy_file, second or self.path / SECOND_OFFICER
        signed = load_policy(
            file,
            load_public_key(officer or self.path / OFFICER),
            load_public_key(other) if second or other.exists() else None,
        )
        if signed.policy.site != self.config.name:
            raise PolicyError(
                f"{file} is for site {signed.policy.site!r}, but {SITE} names {self.config.name!r}."
            )
        return signed

    def ledger(self, signed: SignedPolicy) -> Ledger:
        """The site's ledger, under its policy; key and ledger are made at the site's first start.

        Raises:
            PolicyRefusal: the policy widens the one before without a second signature.
            LedgerError: the ledger cannot be trusted, read or written, or it or its key is gone.
        """
        from privacy.policy import open_ledger

        self.state.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.state.holds_ledger()
        return open_ledger(self.state.ledger, load_or_create_key(self.state.key), signed)

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


def state_at(path: Path) -> StateFolder:
    """The state folder at `path`, which is a state folder or a site's folder.

    Raises:
        ConfigError: it is a site's folder whose site.toml cannot be read.
    """
    site = SiteFolder(path)
    return site.state if site.exists() else StateFolder(path)
