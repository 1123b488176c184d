"""The sites of a federation: who may connect. sites.json is the authorisation list; everything else follows it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from filelock import FileLock

from mmmed.errors import DeployError
from mmmed.files import write_atomic
from mmmed.pki.certificates import (
    check_name,
    common_name,
    fingerprint,
    parse_certificate,
    read_request,
)
from mmmed.pki.kit import Kit
from server.deployment.authority import Authority
from server.deployment.bundle import FLOWER, app_digest
from server.deployment.folder import Folder


@dataclass(frozen=True)
class SiteEntry:
    """One site that was admitted.

    Attributes:
        name: its name, as in its certificate.
        public_key: its P-384 public key, PEM.
        fingerprint: SHA-256 of that key.
        serial: serial number of the certificate that it may use, upper-case hexadecimal as nginx writes it.
        expires: when that ends, ISO 8601.
        revoked: it may connect no more.
    """

    name: str
    public_key: str
    fingerprint: str
    serial: str
    expires: str
    revoked: bool = False


def read_sites(folder: Folder) -> list[SiteEntry]:
    """All sites ever admitted, by name.

    Raises:
        DeployError: the list is damaged.
    """
    try:
        return [SiteEntry(**entry) for entry in json.loads(folder.sites.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        raise DeployError(f"{folder.sites}: damaged ({error}). Restore it from a backup") from error


def admit(folder: Folder, request_file: Path, name: str | None = None) -> tuple[SiteEntry, Path]:
    """Sign a site's request and write its start-up kit; the same key again renews the certificate.

    Args:
        folder: the federation.
        request_file: what `mmmed site init` wrote.
        name: the name that the coordinator expects in it; None takes the request's.

    Raises:
        DeployError: the request is not valid, names another site, or its name or key is taken or revoked.
    """
    request = read_request(request_file)
    named = common_name(request)
    if name is not None and check_name(name) != named:
        raise DeployError(f"{request_file}: is the request of {named!r}, not of {name!r}")
    public = request.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    with _editing(folder) as sites:
        if any(site.public_key == pem and site.revoked for site in sites):
            raise DeployError(
                f"{request_file}: this key was revoked. The hospital needs a new one: `mmmed site init NAME --new-key`"
            )
        for site in sites:
            if (site.public_key == pem) != (site.name == named) and not site.revoked:
                taken = "has this key" if site.public_key == pem else "has another key"
                raise DeployError(
                    f"{request_file}: {site.name!r} {taken}. Revoke it first: mmmed server revoke {site.name}"
                )
        certificate = Authority(folder.ca).issue_site(public, named)  # type: ignore[arg-type]
        parsed = parse_certificate(certificate, "the authority")
        entry = SiteEntry(
            name=named,
            public_key=pem,
            fingerprint=fingerprint(request),
            serial=_serial(parsed.serial_number),
            expires=parsed.not_valid_after_utc.isoformat(timespec="seconds"),
        )
        sites[:] = [site for site in sites if site.public_key != pem] + [entry]
    settings = folder.settings
    kit = Kit(
        site=named,
        address=settings.address,
        port=settings.port,
        flower=FLOWER,
        app=app_digest(),
        server_ca=folder.server_ca.read_text(encoding="ascii"),
        certificate=certificate.decode("ascii"),
    )
    path = folder.kits / f"{named}.kit"
    kit.write(path)
    return entry, path


def revoke(folder: Folder, name: str) -> SiteEntry:
    """Mark a site as revoked, so that it may not connect any more.

    Raises:
        DeployError: no such site may connect.
    """
    with _editing(folder) as sites:
        for place, site in enumerate(sites):
            if site.name == name and not site.revoked:
                sites[place] = replace(site, revoked=True)
                return sites[place]
        known = ", ".join(site.name for site in sites if not site.revoked) or "none"
        raise DeployError(f"no site {name!r} may connect. Sites: {known}")


def _serial(number: int) -> str:
    return number.to_bytes((number.bit_length() + 7) // 8).hex().upper()


@contextmanager
def _editing(folder: Folder) -> Iterator[list[SiteEntry]]:
    """The list, written back if nothing is raised; one editor at a time."""
    with FileLock(folder.path / ".sites.lock"):
        sites = read_sites(folder)
        yield sites
        sites.sort(key=lambda site: (site.name, site.revoked))
        write_atomic(folder.sites, json.dumps([asdict(site) for site in sites], indent=2) + "\n")
