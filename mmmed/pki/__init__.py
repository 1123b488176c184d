"""What the coordinator's and the hospital's machines have in common: certificates, start-up kits, processes."""

from __future__ import annotations

import sys

from mmmed.errors import DeployError

_SYSTEMS = {"darwin": "macOS", "win32": "Windows"}


def require_linux() -> None:
    """Raise DeployError on another system: its processes could not be tied to their supervisor there."""
    if sys.platform != "linux":
        system = _SYSTEMS.get(sys.platform, sys.platform)
        raise DeployError(
            f"a federation's server and its sites run on Linux alone, and this is {system}: use a Linux machine, or "
            "a virtual one (on Windows: WSL)"
        )
