"""Which software a guarantee rests on."""

from __future__ import annotations

from functools import lru_cache
from importlib import metadata

_PACKAGES = ("mmmed", "torch", "opacus", "dp-accounting", "cryptography")


def versions() -> dict[str, str]:
    """Versions of the installed packages on which the guarantee rests."""
    return dict(_versions())


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    """As this process has them: what is installed meanwhile is not what it runs."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
