"""The site's pages: one page, and its live part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from client.dashboard.view import SiteView, read_site
from client.hospital import FILE as SITE_FILE
from client.hospital import KEY, SiteFolder
from client.site import ledger_file
from mmmed.errors import RunError
from mmmed.web import Section, page
from privacy.errors import PrivacyError
from privacy.ledger import Budget

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
        policy = site.policy().policy
        return [
            (field.name.replace("_", " "), _allowed(getattr(policy, field.name))) for field in fields(policy)
        ]

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

    def view() -> SiteView | None:
        if not is_state(state) and not (state / KEY).exists():
            return None  # no request was answered yet; a key without its ledger is told as the damage it is
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
        return page(
            request,
            _PACKAGE,
            "site.html",
            title=f"Site {name}",
            site=view(),
            live=f"{path}/live",
            rules=rules,
            problem=problem,
            simulated=policy is None,
        )

    @router.get("/live")
    def live(request: Request) -> HTMLResponse:
        return page(request, _PACKAGE, "now.html", title="", site=view())

    return Section(name, path, router, _PACKAGE)


def _allowed(value: object) -> str:
    if isinstance(value, Budget):
        return f"epsilon {value.epsilon:g} at delta {value.delta:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {one}" for key, one in value.items()) or "none"
    if isinstance(value, frozenset):
        return ", ".join(sorted(value)) or "none"
    return str(value)
