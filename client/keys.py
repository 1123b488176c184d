"""The site's Ed25519 key: it signs the ledger and never leaves the site."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mmmed.errors import RunError


def load_or_create_key(path: Path) -> Ed25519PrivateKey:
    """Read the site's key; at the site's first start make it, readable by its owner alone.

    Raises:
        RunError: the file does not hold an Ed25519 private key.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return _create(path)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise RunError(f"{path}: not an unencrypted private key in PEM form: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise RunError(f"{path}: expected an Ed25519 private key. Found {type(key).__name__}")
    return key


def _create(path: Path) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)  # fails if another process made the key first: its key is then the site's
    except FileExistsError:
        return load_or_create_key(path)
    finally:
        temporary.unlink()
    return key


def derive_secret(key: Ed25519PrivateKey, purpose: bytes) -> bytes:
    """A 32-byte secret for one purpose, derived from the site's key (HKDF-SHA256, RFC 5869)."""
    raw = key.private_bytes(
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"mmmed " + purpose).derive(raw)
