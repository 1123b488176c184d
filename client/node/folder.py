"""Where a site keeps what connects it to its federation: ``node/`` in the site's folder.

node.key            the site's private key; it never leaves
NAME.request        what the coordinator signs
federation.kit      what the coordinator sent back
runner.secret       what proves to the node that the runner may take its tasks
audit.jsonl         what was asked, decided and sent
runs/               runs that were seen, and whether they are approved
approval.token      what the dashboard asks of whoever approves a run
flwr/, log/         Flower's own files, logs
"""

from __future__ import annotations

import secrets
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import tomli_w

from client.site_folder import SiteFolder
from mmmed.errors import DeployError
from mmmed.files import exclusive
from mmmed.pki import require_linux
from mmmed.pki.certificates import (
    check_name,
    common_name,
    create_key,
    days_left,
    fingerprint,
    load_key,
    make_request,
    parse_certificate,
    read_request,
    write_secret,
)
from mmmed.pki.kit import Kit
from mmmed.processes import flower_environment


def alone(folder: NodeFolder) -> AbstractContextManager[None]:
    """Hold the site's folder, so that only one process runs the site or changes its keys.

    Raises:
        DeployError: somebody else does.
    """
    return exclusive(
        folder.path / ".lock", lambda: DeployError(f"{folder.site}: this site is running. Stop it first")
    )


class NodeFolder:
    """The paths of a site's ``node`` folder."""

    def __init__(self, site: Path) -> None:
        require_linux()
        self.site = site.absolute()
        self.path = SiteFolder(self.site).node
        self.key = self.path / "node.key"
        self.kit_file = self.path / "federation.kit"
        self.certificate = self.path / "node.crt"
        self.server_ca = self.path / "server-ca.crt"
        self.secret = self.path / "runner.secret"
        self.audit = self.path / "audit.jsonl"
        self.runs = self.path / "runs"
        self.approval_token = self.path / "approval.token"
        self.log = self.path / "log"
        self.flower_home = self.path / "flwr"

    def create(self, name: str, *, new_key: bool = False) -> Path:
        """Make the site's key and its request, and a site.toml to fill in if there is none; returns the request.

        With `new_key` a key that is there, what belongs to it and its kit are set aside. Ledger, policy, data and audit
        log stay: the patients have spent what they have spent.

        Raises:
            DeployError: there is a key already and `new_key` is not given, or the name is not valid.
        """
        check_name(name)
        if self.key.exists():
            if not new_key:
                raise DeployError(
                    f"{self.key}: is there already. `mmmed site init {name} --new-key` replaces it"
                )
            self._set_aside()
        for folder in (self.path, self.runs, self.log, self.flower_home):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = create_key(self.key)
        write_secret(self.secret, secrets.token_bytes(32))
        request = self.path / f"{name}.request"
        request.write_bytes(make_request(key, name))
        layout = SiteFolder(self.site)
        if not layout.exists():
            layout.file.write_text(
                tomli_w.dumps({"version": 1, "name": name, "dataset": "dataset"}), encoding="utf-8"
            )
        return request

    def fingerprint(self, request: Path) -> str:
        """The fingerprint to read to the coordinator."""
        return fingerprint(read_request(request))

    def _set_aside(self) -> None:
        with alone(self):
            aside = self.path / datetime.now(UTC).strftime("replaced-%Y%m%d-%H%M%S")
            aside.mkdir(mode=0o700)
            own = (self.key, self.kit_file, self.certificate, self.secret, *self.path.glob("*.request"))
            for file in own:
                if file.exists():
                    file.rename(aside / file.name)

    def join(self, kit_file: Path) -> None:
        """Take the coordinator's kit.

        Raises:
            DeployError: it is not for this site's key, name or software.
        """
        kit = Kit.read(kit_file)
        self.check(kit)
        kit.write(self.kit_file)

    def kit(self) -> Kit:
        """The kit that the site has joined with; its certificates are written next to it, for programs that read files.

        Raises:
            DeployError: there is none, or it does not fit.
        """
        if not self.kit_file.exists():
            raise DeployError(
                f"{self.path}: the site has not joined a federation. Start it once with the kit that the "
                "coordinator sent: mmmed site start NAME.kit"
            )
        kit = Kit.read(self.kit_file)
        self.check(kit)
        self.certificate.write_text(kit.certificate, encoding="ascii")
        self.server_ca.write_text(kit.server_ca, encoding="ascii")
        return kit

    def check(self, kit: Kit) -> None:
        """Raise DeployError unless the kit is for this site: its key, its name, its version of Flower."""
        certificate = parse_certificate(kit.certificate.encode(), "the kit")
        parse_certificate(kit.server_ca.encode(), "the kit")
        if certificate.public_key() != load_key(self.key).public_key():
            raise DeployError(
                f"the kit's certificate is not for the key in {self.key}. Send the coordinator this site's request"
            )
        layout = SiteFolder(self.site)
        name = layout.config.name
        if not kit.site == common_name(certificate) == name:
            raise DeployError(f"the kit is for {kit.site!r}, but {layout.file} names {name!r}")
        if days_left(certificate) <= 0:
            raise DeployError(
                "the kit's certificate has expired. The coordinator renews it with `mmmed server add-site` and this "
                "site's request; then: mmmed site renew NAME.kit"
            )
        if kit.flower != (here := metadata.version("flwr")):
            raise DeployError(
                f"the federation runs Flower {kit.flower}, this machine {here}. Install the same version of mmmed"
            )

    def environment(self) -> dict[str, str]:
        """Environment of the node and the runner: Flower keeps its files in this folder and installs nothing."""
        return flower_environment(self.flower_home)
