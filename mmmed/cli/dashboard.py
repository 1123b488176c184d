"""``mmmed dashboard``: what folders hold, in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mmmed.dashboard import Section


def dashboard(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            help="What to show: a folder of runs or one run, a federation's folder, a hospital's site folder, a "
            "log of predictions.",
            show_default="runs",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond this machine only with TLS.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8787,
    certificate: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
) -> None:
    """Show budgets, runs, sites, refusals and audits in a browser; at a site, approve the runs that wait."""
    from mmmed.dashboard.serve import serve

    sections = [section for folder in folders or [Path("runs")] for section in _sections(folder)]
    serve(sections, host=host, port=port, certificate=certificate, key=key)


def _sections(folder: Path) -> list[Section]:
    """The pages of a folder, by what it holds."""
    from client.dashboard import deployed_section, is_site, is_state, site_section
    from client.site_folder import SiteFolder
    from mmmed.watch import WatchFolder
    from mmmed.watch.pages import watch_section
    from server.dashboard import consortium_section, coordinator_section, is_federation

    if WatchFolder.is_one(folder):
        return [watch_section(folder)]
    if is_site(folder):
        watched = SiteFolder(folder).watch
        return [deployed_section(folder), *([watch_section(watched)] if WatchFolder.is_one(watched) else [])]
    if is_state(folder):
        return [site_section(folder.name, folder)]
    if is_federation(folder):
        return [coordinator_section(folder)]
    simulated = sorted(path for path in (folder / "sites").glob("*") if is_state(path))
    return [
        consortium_section(folder),
        *(site_section(path.name, path, path=f"/sites/{i}") for i, path in enumerate(simulated, start=1)),
    ]
