"""Which software a guarantee rests on."""

from __future__ import annotations

from importlib import metadata

_PACKAGES = ("mmmed", "torch", "opacus", "dp-accounting", "cryptography")


def versions() -> dict[str, str]:
    """Versions of the installed packages on which the guarantee rests."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
