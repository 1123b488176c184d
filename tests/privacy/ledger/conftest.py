"""A site's key, and its ledger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.ledger import Budget, Ledger


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "site" / "ledger.db"


@pytest.fixture
def limit() -> Budget:
    return Budget(8.0, 1e-5)


@pytest.fixture
def reopen(path: Path, key: Ed25519PrivateKey, limit: Budget) -> Callable[[], Ledger]:
    return lambda: Ledger.open(path, key, limit=limit)
