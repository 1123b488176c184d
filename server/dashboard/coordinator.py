"""The consortium's pages over a deployed federation: its runs, and which sites are connected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mmmed.dashboard import Section
from mmmed.errors import DeployError
from server.dashboard.gauges import federation_gauges
from server.dashboard.pages import consortium_section
from server.deployment.control import Control
from server.deployment.folder import Folder
from server.deployment.sites import read_sites


def is_federation(folder: Path) -> bool:
    """Whether a folder is a coordinator's."""
    return (folder / "server.toml").is_file()


def coordinator_section(path: Path) -> Section:
    """Pages of a federation's folder.

    Raises:
        DeployError: its settings cannot be read.
    """
    folder = Folder(path)
    _ = folder.settings

    def online() -> tuple[list[tuple[str, str, str]], str]:
        problem, connected = "", set[str]()
        try:
            with Control(folder) as control:
                connected = {node.public_key for node in control.nodes() if node.online}
        except DeployError as error:
            problem = str(error)
        sites = []
        for site in read_sites(folder):
            reached = "unknown" if problem else "online" if site.public_key in connected else "offline"
            sites.append((site.name, "revoked" if site.revoked else reached, site.expires[:10]))
        return sites, problem

    return replace(consortium_section(folder.runs, online), gauges=lambda: federation_gauges(folder))
