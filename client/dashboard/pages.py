"""The site's pages: one page, and its live part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from client.dashboard.view import SiteView, read_site
from client.hospital import FILE as SITE_FILE
from client.hospital import SiteFolder
from client.site import ledger_file
from mmmed.errors import RunError
from mmmed.web import Section, page
from privacy.errors import PrivacyError

_PACKAGE = "client.dashboard"

PolicyRows = Callable[[], list[tuple[str, str]]]


def is_site(folder: Path) -> bool:
    """Whether a folder is a hospital's site folder."""
    return (folder / SITE_FILE).is_file()


def is_state(folder: Path) -> bool:
    """Whether a folder is a site's state, such as a simulated site's in a run folder."""
    return ledger_file(folder).is_file()


def deployed_section(folder: Path) -> Section:
    """Pages of a hospital's site folder.

    Raises:
        ConfigError: its site.toml cannot be read.
    """
    site = SiteFolder(folder)

    def rules() -> list[tuple[str, str]]:
        tree = site.policy().policy.model_dump(mode="json", exclude_none=True)
        return [(key, ", ".join(map(str, v)) if isinstance(v, list) else str(v)) for key, v in _flat(tree)]

    return site_section(site.config.name, site.state, rules)


def site_section(name: str, state: Path, policy: PolicyRows | None = None, *, path: str = "/site") -> Section:
    """Pages of one site.

    Args:
        name: the site's name.
        state: its state folder.
        policy: returns what its policy allows, as rows of rule and value; None for a simulated site.
        path: where the pages begin.
    """
    router = APIRouter()

    def view() -> SiteView:
        try:
            return read_site(state)
        except PrivacyError as error:
            raise RunError(str(error)) from error

    @router.get("")
    def overview(request: Request) -> HTMLResponse:
        try:
            rules, problem = (policy() if policy is not None else []), ""
        except PrivacyError as error:
            rules, problem = [], str(error)
        values = {"rules": rules, "problem": problem, "simulated": policy is None}
        return page(
            request, _PACKAGE, "site.html", title=f"Site {name}", site=view(), live=f"{path}/live", **values
        )

    @router.get("/live")
    def live(request: Request) -> HTMLResponse:
        return page(request, _PACKAGE, "now.html", title="", site=view())

    return Section(name, path, router, _PACKAGE)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
