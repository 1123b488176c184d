"""The site's pages: one page, and its live part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from client.dashboard.approvals import RUNS, add_approvals
from client.dashboard.gauges import site_gauges
from client.dashboard.view import SiteView, read_refusals, read_site
from client.node.approval import RunApprovals
from client.node.folder import NodeFolder
from client.site_folder import SiteFolder, StateFolder
from mmmed.dashboard import Section, page
from mmmed.errors import RunError
from privacy.errors import PrivacyError
from privacy.ledger import Budget

_PACKAGE = "client.dashboard"

PolicyRows = Callable[[], list[tuple[str, str]]]


def is_site(folder: Path) -> bool:
    """Whether a folder is a hospital's site folder."""
    return SiteFolder(folder).exists()


def is_state(folder: Path) -> bool:
    """Whether a folder is a site's state, such as a simulated site's in a run folder."""
    return StateFolder(folder).ledger.is_file()


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

    logs = [state.path for state in site.logged_states]
    node = NodeFolder(folder) if site.node.is_dir() else None
    return site_section(
        site.config.name, site.state.path, rules, logs, node=node, approval=site.config.approval
    )


def site_section(
    name: str,
    state: Path,
    policy: PolicyRows | None = None,
    logs: Sequence[Path] = (),
    *,
    path: str = "/site",
    node: NodeFolder | None = None,
    approval: bool = False,
) -> Section:
    """Pages of one site.

    Args:
        name: the site's name.
        state: its state folder.
        policy: returns what its policy allows, as rows of rule and value; None for a simulated site.
        logs: state folders that hold its logs; `state` by default.
        path: where the pages begin.
        node: its ``node`` folder, if it takes part in a federation.
        approval: whether runs are held there until a person decides.
    """
    router, note = APIRouter(), ""
    if node is not None:
        token = add_approvals(router, node, path)
        if approval:
            token.make()
            note = f"who approves runs of {name} needs the token in {token.file}"

    def view() -> SiteView | None:
        try:  # a key without its ledger is told as the damage it is
            return read_site(state) if StateFolder(state).holds_ledger() else None
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
            refusals=read_refusals(logs or [state]),
            live=f"{path}/live",
            rules=rules,
            problem=problem,
            simulated=policy is None,
            approval=approval,
            runs=None if node is None else list(reversed(RunApprovals(node.runs).all())),
            path=path,
        )

    @router.get("/live")
    def live(request: Request) -> HTMLResponse:
        return page(request, _PACKAGE, "now.html", title="", site=view())

    decisions = f"{path}{RUNS}/" if node is not None else ""
    gauges = site_gauges(name, state, logs or [state])
    return Section(name, path, router, _PACKAGE, gauges, decisions, note)


def _allowed(value: object) -> str:
    if isinstance(value, Budget):
        return f"epsilon {value.epsilon:g} at delta {value.delta:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {one}" for key, one in value.items()) or "none"
    if isinstance(value, frozenset):
        return ", ".join(sorted(value)) or "none"
    return str(value)
