"""Make a federation's certificates, and renew the server's."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from mmmed.errors import DeployError
from mmmed.files import write_atomic
from mmmed.pki.certificates import create_key, days_left, load_key, read_certificate
from server.deployment.authority import AUTHORITY_SOON, Authority, general_name
from server.deployment.folder import Folder, Settings

_LINK_HOSTS = ["localhost", "127.0.0.1"]


@dataclass(frozen=True)
class Organisation:
    """A server certificate that the organisation's own authority issued: chain, private key, and root (PEM files)."""

    certificate: Path
    key: Path
    root: Path


def provision(folder: Folder, settings: Settings, organisation: Organisation | None = None) -> None:
    """Make the folder, our authority (sites' certificates are always ours) and the server's certificates.

    Raises:
        DeployError: the folder is in use, or the organisation's files do not fit together or the address.
    """
    if organisation is not None:
        _check(organisation, settings.address)
    folder.create(settings)
    Authority(folder.ca).create(settings.address)
    _issue(folder, "link", _LINK_HOSTS)
    if organisation is None:
        shutil.copyfile(folder.ca_certificate, folder.server_ca)
        _issue(folder, "server", [settings.address])
    else:
        _take(folder, organisation)


def renew(folder: Folder, organisation: Organisation | None = None) -> None:
    """Replace the server's certificates by new ones that begin now; sites notice nothing.

    So is the authority's in its last three years. Its key stays, so that certificates and kits that are out hold until
    they end; a kit made from then on brings the new root.

    Raises:
        DeployError: the organisation's certificate must be renewed by the organisation.
    """
    settings = folder.settings
    own_root = folder.server_ca.read_bytes() == folder.ca_certificate.read_bytes()
    if days_left(read_certificate(folder.ca_certificate)) < AUTHORITY_SOON:
        Authority(folder.ca).renew(settings.address)
        if own_root:
            write_atomic(folder.server_ca, folder.ca_certificate.read_bytes())
    if organisation is not None:
        _check(organisation, settings.address)
        _take(folder, organisation)
    elif not own_root:
        raise DeployError(
            "the server's certificate is the organisation's: give its new one with --certificate, --key and --root"
        )
    else:
        _issue(folder, "server", [settings.address])
    _issue(folder, "link", _LINK_HOSTS)


def _issue(folder: Folder, name: str, hosts: list[str]) -> None:
    path = folder.key(name)
    key = load_key(path) if path.exists() else create_key(path)
    write_atomic(folder.certificate(name), Authority(folder.ca).issue_server(key.public_key(), hosts))


def _take(folder: Folder, organisation: Organisation) -> None:
    folder.key("server").unlink(missing_ok=True)
    folder.key("server").touch(mode=0o600)
    folder.key("server").write_bytes(organisation.key.read_bytes())
    write_atomic(folder.certificate("server"), organisation.certificate.read_bytes())
    write_atomic(folder.server_ca, organisation.root.read_bytes())


def _check(organisation: Organisation, address: str) -> None:
    leaf = read_certificate(organisation.certificate)
    try:
        key = serialization.load_pem_private_key(organisation.key.read_bytes(), password=None)
        chain = x509.load_pem_x509_certificates(organisation.certificate.read_bytes())
        roots = x509.load_pem_x509_certificates(organisation.root.read_bytes())
    except (ValueError, TypeError, OSError) as error:
        raise DeployError(f"the organisation's certificate, key or root cannot be read: {error}") from error
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*spki) != leaf.public_key().public_bytes(*spki):
        raise DeployError(f"{organisation.key}: is not the key of {organisation.certificate}")
    if days_left(leaf) <= 0:
        raise DeployError(f"{organisation.certificate}: has expired")
    try:
        verifier = PolicyBuilder().store(Store(roots)).build_server_verifier(general_name(address))
        verifier.verify(leaf, chain[1:])
    except VerificationError as error:
        raise DeployError(
            f"{organisation.certificate}: does not hold for {address} under {organisation.root}: {error}"
        ) from error
