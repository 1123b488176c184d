"""The coordinator's folder: everything that a federation keeps.

server.toml         address and ports
ca/                 our certificate authority: ca.crt, ca.key
server.crt, .key    the published server's certificate; server-ca.crt is what it chains to
link.crt, .key      the SuperLink's own, on the loopback address
superexec.secret    what proves to the SuperLink that its executor may take a run
sites.json          the sites that may connect, and those that no longer may
nodes.json          which of Flower's nodes has which site's key
kits/               a start-up kit a site
superlink.db        Flower's state: nodes, runs, messages
runs/               a run folder a run
checks/             sites' answers to a question, until they are printed
nginx/, log/, flwr/ configuration, logs, Flower's own files
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

import tomli_w

from mmmed.errors import DeployError
from mmmed.pki import require_linux
from mmmed.pki.certificates import write_secret
from mmmed.processes import flower_environment
from server.app_config import CHECKS
from server.roster import NODES

_HOST = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
)


@dataclass(frozen=True)
class Settings:
    """Addresses and ports of a federation.

    Attributes:
        address: host name or IP address under which sites reach it.
        port: published port.
        listen: local address on which it is published.
        link_port: the SuperLink's port on the loopback address.
    """

    address: str
    port: int = 8443
    listen: str = "0.0.0.0"
    link_port: int = 9092

    def __post_init__(self) -> None:
        for name in ("port", "link_port"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= 65535:
                raise DeployError(f"{name}: expected a port, 1 to 65535. Found {value!r}")
        check_address("address", self.address)
        try:
            ipaddress.ip_address(self.listen)
        except ValueError as error:
            raise DeployError(f"listen: expected an IP address. Found {self.listen!r}") from error


def check_address(name: str, value: object) -> None:
    """Raise DeployError unless `value` is a host name or an IP address."""
    if not isinstance(value, str) or not (_HOST.fullmatch(value) or ":" in value):
        raise DeployError(f"{name}: expected a host name or an IP address. Found {value!r}")
    if ":" in value:
        try:
            ipaddress.ip_address(value)
        except ValueError as error:
            raise DeployError(
                f"{name}: expected a host name or an IP address, without a port. Found {value!r}"
            ) from error


class Folder:
    """The paths of a federation's folder."""

    def __init__(self, path: Path) -> None:
        require_linux()
        self.path = path.absolute()
        self.ca = self.path / "ca"
        self.ca_certificate = self.ca / "ca.crt"
        self.server_ca = self.path / "server-ca.crt"
        self.secret = self.path / "superexec.secret"
        self.sites = self.path / "sites.json"
        self.nodes = self.path / "nodes.json"
        self.kits = self.path / "kits"
        self.database = self.path / "superlink.db"
        self.runs = self.path / "runs"
        self.checks = self.path / "checks"
        self.nginx = self.path / "nginx"
        self.nginx_pid = self.nginx / "nginx.pid"
        self.log = self.path / "log"
        self.flower_home = self.path / "flwr"
        self.lock = self.path / ".lock"

    def certificate(self, name: str) -> Path:
        """Path of the certificate of ``server`` or ``link``."""
        return self.path / f"{name}.crt"

    def key(self, name: str) -> Path:
        """Path of the private key of the certificate of the same name."""
        return self.path / f"{name}.key"

    @property
    def settings(self) -> Settings:
        """What server.toml says.

        Raises:
            DeployError: there is no federation here, or the file is wrong.
        """
        file = self.path / "server.toml"
        try:
            return Settings(**tomllib.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise DeployError(
                f"{self.path}: holds no federation. Make one with `mmmed server init`, or name it with --folder"
            ) from error
        except (ValueError, TypeError) as error:
            raise DeployError(f"{file}: {error}") from error
        except DeployError as error:
            raise DeployError(f"{file}: {error}") from error

    def create(self, settings: Settings) -> None:
        """Make the folder, for its owner alone, and the secrets that nothing else makes.

        Raises:
            DeployError: it holds a federation already.
        """
        if set(str(self.path)) & set('"$\\;{}\n'):
            raise DeployError(
                f"{self.path}: a path with any of \" $ \\\\ ; {{ }} cannot be written to nginx's configuration"
            )
        if self.path.exists() and any(self.path.iterdir()):
            raise DeployError(f"{self.path}: not empty. Choose another folder with --folder")
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o700)
        for folder in (self.ca, self.kits, self.runs, self.nginx, self.log, self.flower_home):
            folder.mkdir()
        write_secret(self.secret, secrets.token_bytes(32))
        (self.path / "server.toml").write_text(tomli_w.dumps(asdict(settings)), encoding="utf-8")

    def environment(self) -> dict[str, str]:
        """Environment of Flower's processes: their files stay in this folder and they install nothing."""
        own = {"MMMED_RUNS": str(self.runs), CHECKS: str(self.checks), NODES: str(self.nodes)}
        return flower_environment(self.flower_home) | own
