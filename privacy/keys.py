"""Ed25519 keys on disk: the site's, which signs its ledger, and an officer's, which signs a policy.

A private key is PEM (PKCS 8), readable by its owner alone, and never leaves the machine that made it; a site's
is not encrypted, since the site starts unattended. A public key is PEM (SubjectPublicKeyInfo).
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.disk import sync_folder
from privacy.errors import SigningKeyError


def load_key(path: Path, passphrase: str = "") -> Ed25519PrivateKey:
    """Read a private key; `passphrase` "" for one that is not encrypted.

    Raises:
        SigningKeyError: there is no such file, it holds no Ed25519 private key, or the passphrase is wrong.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SigningKeyError(
            f"{path}: cannot be read ({error.strerror}). Expected a private key."
        ) from error
    try:
        key = serialization.load_pem_private_key(data, password=passphrase.encode() or None)
    except (ValueError, TypeError) as error:
        wanted = (
            "a private key in PEM form under this passphrase" if passphrase else "an unencrypted private key"
        )
        raise SigningKeyError(f"{path}: not {wanted}: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningKeyError(f"{path}: expected an Ed25519 private key. Found {type(key).__name__}.")
    return key


def is_encrypted(path: Path) -> bool:
    """Whether a private key file is encrypted with a passphrase.

    Raises:
        SigningKeyError: there is no such file.
    """
    try:
        return b"ENCRYPTED" in path.read_bytes().partition(b"\n")[0]
    except OSError as error:
        raise SigningKeyError(
            f"{path}: cannot be read ({error.strerror}). Expected a private key."
        ) from error


def load_or_create_key(path: Path) -> Ed25519PrivateKey:
    """Read the site's key; at the site's first start make it.

    Raises:
        SigningKeyError: the file does not hold an Ed25519 private key.
    """
    if path.exists():
        return load_key(path)
    try:
        return create_key(path)
    except FileExistsError:  # another process made it first: its key is then the site's
        return load_key(path)


def create_key(path: Path, passphrase: str = "") -> Ed25519PrivateKey:
    """Make a private key that only its owner can read, encrypted if there is a passphrase.

    Raises:
        FileExistsError: the file is there; no key is ever overwritten.
    """
    key = Ed25519PrivateKey.generate()
    encryption = (
        serialization.BestAvailableEncryption(passphrase.encode())
        if passphrase
        else serialization.NoEncryption()
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)  # fails if the file is there
        sync_folder(path.parent)  # what it signs must not outlive it
    finally:
        temporary.unlink()
    return key


def public_pem(key: Ed25519PublicKey) -> str:
    """A public key in PEM form (SubjectPublicKeyInfo), to be handed to others."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form).decode()


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Read a public key.

    Raises:
        SigningKeyError: there is no such file, or it holds no Ed25519 public key.
    """
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise SigningKeyError(f"{path}: cannot be read ({error.strerror}). Expected a public key.") from error
    except (ValueError, TypeError) as error:
        raise SigningKeyError(f"{path}: not a public key in PEM form: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SigningKeyError(f"{path}: expected an Ed25519 public key. Found {type(key).__name__}.")
    return key


def parse_public_key(text: str) -> Ed25519PublicKey:
    """The public key of 64 hexadecimal digits, as a site's statements name it. Raises SigningKeyError for others."""
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    except ValueError:
        raise SigningKeyError(f"A public key is 64 hexadecimal digits. Found {text!r}.") from None


def derive_secret(key: Ed25519PrivateKey, purpose: bytes) -> bytes:
    """A 32-byte secret for one purpose, derived from the site's key (HKDF-SHA256, RFC 5869)."""
    raw = key.private_bytes_raw()
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"mmmed " + purpose).derive(raw)
