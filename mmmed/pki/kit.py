"""The start-up kit that a coordinator sends a hospital: one readable TOML file with nothing secret in it."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

import tomli_w

from mmmed.errors import DeployError


@dataclass(frozen=True)
class Kit:
    """What a site needs to know of its federation.

    Attributes:
        site: the site's name in the federation.
        address: host name or IP address of the coordinator.
        port: its port.
        flower: the Flower version that both sides run.
        app: ``sha256:`` digest of the app bundle that the coordinator submits, for the site's policy.
        server_ca: certificate (PEM) that the server's certificate must chain to.
        certificate: the site's own certificate (PEM), for the key that the site made.
    """

    site: str
    address: str
    port: int
    flower: str
    app: str
    server_ca: str
    certificate: str

    def write(self, path: Path) -> None:
        """Write the kit."""
        path.write_text(tomli_w.dumps(asdict(self), multiline_strings=True), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Kit:
        """Read a kit.

        Raises:
            DeployError: the file is not one.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
            kit = cls(**values)
        except OSError as error:
            raise DeployError(f"{path}: cannot be read ({error.strerror})") from error
        except (ValueError, TypeError) as error:
            raise DeployError(f"{path}: not a start-up kit as `mmmed server add-site` writes it") from error
        wrong = [
            name for name, kind in cls.__annotations__.items() if type(getattr(kit, name)).__name__ != kind
        ]
        if wrong:
            raise DeployError(f"{path}: {wrong[0]} is not of the kind that a start-up kit holds")
        return kit
