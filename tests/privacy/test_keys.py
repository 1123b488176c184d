from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from privacy.errors import SigningKeyError
from privacy.keys import derive_secret, load_or_create_key


def raw(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes_raw()


def test_the_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    with ThreadPoolExecutor(8) as pool:
        keys = {raw(key) for key in pool.map(lambda _: load_or_create_key(path), range(16))}
    assert keys == {raw(load_or_create_key(path))}
    assert path.stat().st_mode & 0o077 == 0
    assert [p.name for p in tmp_path.iterdir()] == ["site.key"]


@pytest.mark.parametrize("content", [b"", b"junk", None])
def test_another_file_is_not_taken_for_a_key(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "site.key"
    if content is None:
        content = X25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    path.write_bytes(content)
    with pytest.raises(SigningKeyError, match=r"site\.key"):
        load_or_create_key(path)
    assert path.read_bytes() == content


def test_secrets_differ_by_purpose_and_key() -> None:
    one, two = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    secrets = {derive_secret(key, purpose) for key in (one, two) for purpose in (b"a", b"b")}
    assert len(secrets) == 4
    assert all(len(secret) == 32 for secret in secrets)
    assert derive_secret(one, b"a") == derive_secret(one, b"a")
