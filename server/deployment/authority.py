"""The federation's certificate authority: signs sites' certificates, and the server's unless the organisation does."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from mmmed.errors import DeployError
from mmmed.files import write_atomic
from mmmed.pki.certificates import create_key, load_key, read_certificate, subject

_AUTHORITY_DAYS = 3650
AUTHORITY_SOON = 1095  # renewed from then on: well before a site's newest certificate would outlive it
SERVER_DAYS = 397  # the most that browsers and auditors accept of a server
SITE_DAYS = 730
_CLOCKS = timedelta(minutes=5)  # sites' clocks may lag


class Authority:
    """A certificate authority, whose certificate and key lie in `folder`. The key is read only to sign."""

    def __init__(self, folder: Path) -> None:
        self.certificate = folder / "ca.crt"
        self._key = folder / "ca.key"

    def create(self, name: str) -> None:
        """Make the authority's key and certificate."""
        self._sign_itself(create_key(self._key), name)

    def renew(self, name: str) -> None:
        """Make a new certificate for the same key and name; certificates signed under the old one stay valid.

        Raises:
            DeployError: the authority's key is elsewhere.
        """
        self._sign_itself(self._load_key(), name)

    def _sign_itself(self, key: ec.EllipticCurvePrivateKey, name: str) -> None:
        owner = subject(f"mmmed federation {name}"[:64])
        usage = x509.KeyUsage(
            False, False, False, False, False, True, True, False, False
        )  # certificates, CRLs
        builder = (
            _builder(owner, owner, key.public_key(), _AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        write_atomic(self.certificate, builder.sign(key, hashes.SHA384()).public_bytes(Encoding.PEM))

    def issue_server(
        self, public: ec.EllipticCurvePublicKey, hosts: list[str], days: float = SERVER_DAYS
    ) -> bytes:
        """A server certificate (PEM) for host names and IP addresses."""
        return self._sign(self._leaf(hosts, public, days, ExtendedKeyUsageOID.SERVER_AUTH))

    def issue_site(self, public: ec.EllipticCurvePublicKey, site: str, days: float = SITE_DAYS) -> bytes:
        """A client certificate (PEM) that names the site."""
        return self._sign(self._leaf([site], public, days, ExtendedKeyUsageOID.CLIENT_AUTH))

    def _leaf(
        self, names: list[str], public: ec.EllipticCurvePublicKey, days: float, use: x509.ObjectIdentifier
    ) -> x509.CertificateBuilder:
        issuer = read_certificate(self.certificate)
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)  # signatures only
        return (
            _builder(subject(names[0][:64]), issuer.subject, public, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(x509.SubjectAlternativeName([general_name(n) for n in names]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
            )
        )

    def _sign(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(self._load_key(), hashes.SHA384()).public_bytes(Encoding.PEM)

    def _load_key(self) -> ec.EllipticCurvePrivateKey:
        if not self._key.exists():
            raise DeployError(f"{self._key}: missing. Bring the authority's key back to sign a certificate")
        return load_key(self._key)


def _builder(
    owner: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(owner)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS + min(timedelta(0), timedelta(days=days)))
        .not_valid_after(now + timedelta(days=days))
    )


def general_name(host: str) -> x509.IPAddress | x509.DNSName:
    """A host name or an IP address as certificates hold it."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
