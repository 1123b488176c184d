"""Keys and X.509 certificates: made, written and read the same way on both sides."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from mmmed.errors import DeployError

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def check_name(name: str) -> str:
    """A site's name, if it may be one.

    Raises:
        DeployError: it is not lower-case letters, digits and hyphens.
    """
    if not _NAME.fullmatch(name):
        raise DeployError(
            f"site name {name!r}: expected lower-case letters, digits and hyphens, such as north-gate"
        )
    return name


def create_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A new P-384 key in a file that its owner alone can read.

    Raises:
        DeployError: the file is there already.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    pem = key.private_bytes(Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_secret(path, pem)
    return key


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that its owner alone can read, durably.

    Raises:
        DeployError: the file is there already.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise DeployError(f"{path}: is there already, and a secret is never overwritten") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The elliptic-curve private key in a PEM file.

    Raises:
        DeployError: there is none, or it is another kind of key.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise DeployError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError) as error:
        raise DeployError(f"{path}: not an unencrypted private key in PEM form") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise DeployError(f"{path}: expected an elliptic-curve key. Found {type(key).__name__}")
    return key


def subject(name: str) -> x509.Name:
    """The distinguished name CN=`name`."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def common_name(owner: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """The common name (CN) of a certificate or request; "" if it has none."""
    names = owner.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def make_request(key: ec.EllipticCurvePrivateKey, site: str) -> bytes:
    """A site's request for a certificate (PKCS #10, RFC 2986; PEM): its name, public key, proof of the private one."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject(check_name(site)))
    return builder.sign(key, hashes.SHA384()).public_bytes(Encoding.PEM)


def read_request(path: Path) -> x509.CertificateSigningRequest:
    """A site's request whose signature holds.

    Raises:
        DeployError: the file is no such request.
    """
    try:
        request = x509.load_pem_x509_csr(path.read_bytes())
        public = request.public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP384R1):
            raise DeployError(f"{path}: expected a P-384 key. Make the request with `mmmed site init`")
        if not request.is_signature_valid:
            raise ValueError("signature does not hold")
        check_name(common_name(request))
    except OSError as error:
        raise DeployError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError) as error:
        raise DeployError(
            f"{path}: not a site's request, or changed on its way. Expected the file that `mmmed site init` wrote"
        ) from error
    return request


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file.

    Raises:
        DeployError: there is none.
    """
    try:
        return parse_certificate(path.read_bytes(), str(path))
    except OSError as error:
        raise DeployError(f"{path}: cannot be read ({error.strerror})") from error


def parse_certificate(pem: bytes, source: str) -> x509.Certificate:
    """The certificate in PEM text from `source`.

    Raises:
        DeployError: there is none.
    """
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise DeployError(f"{source}: holds no certificate in PEM form") from error


def fingerprint(owner: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """SHA-256 of the public key (RFC 5280 SubjectPublicKeyInfo), in groups that can be read over the telephone."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(owner.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    text = digest.finalize().hex()
    return " ".join(text[start : start + 8] for start in range(0, 64, 8))


def days_left(certificate: x509.Certificate) -> float:
    """Days until a certificate expires; negative once it has expired."""
    return (certificate.not_valid_after_utc - datetime.now(UTC)).total_seconds() / 86400
