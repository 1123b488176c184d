"""Runs that wait for a person at the site: the full text of each, the decision, and the log of all that was asked.

A decision needs what opens the dashboard and, beside it, the token in a file of the site, which only whoever approves
runs is given: to see is not to decide. It is `RunApprovals.decide`, as with the command.
"""

from __future__ import annotations

import secrets
import stat
from pathlib import Path
from typing import get_args

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from client.node.approval import RunApprovals, Taken
from client.node.folder import NodeFolder
from client.node.log import SiteLog
from mmmed.dashboard import Forbidden, form_of, page
from mmmed.dashboard.sessions import Guard
from mmmed.errors import DeployError
from mmmed.pki.certificates import write_secret
from mmmed.text import shown

_PACKAGE = "client.dashboard"
_MOST_ENTRIES = 200  # of the log on its page
RUNS = "/runs"  # where the decisions are, below the section


class OfficersToken:
    """The token of whoever approves runs, in a file that its owner alone can read."""

    def __init__(self, file: Path) -> None:
        self.file, self._guard = file, Guard()

    def make(self) -> None:
        """Make the file if it is not there."""
        if not self.file.exists():
            write_secret(self.file, secrets.token_urlsafe(24).encode())

    def check(self, sent: str) -> None:
        """Raise Forbidden unless this is the token.

        Raises:
            Forbidden: it is not, or it comes within a second of a wrong one.
            DeployError: the file is missing, or others can read it.
        """
        try:
            mode, token = stat.S_IMODE(self.file.stat().st_mode), self.file.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise DeployError(
                f"{self.file}: cannot be read. Start the dashboard again, which makes it"
            ) from error
        if mode & 0o077:
            raise DeployError(
                f"{self.file}: others can read it ({mode:o}). Delete it, and start the dashboard again"
            )
        if not token or not self._guard.holds(sent, token):
            raise Forbidden(
                f"That is not the token in {self.file}, or it came within a second of a wrong one. Nothing was decided"
            )


def add_approvals(router: APIRouter, folder: NodeFolder, path: str) -> OfficersToken:
    """Add the pages of waiting runs and of the log to a site's; returns the token that decides.

    Args:
        router: the site's pages.
        folder: the site's ``node`` folder.
        path: where the site's pages begin.
    """
    runs, log = RunApprovals(folder.runs), SiteLog(folder.audit)
    token = OfficersToken(folder.approval_token)

    @router.get(f"{RUNS}/{{name}}")
    def run(request: Request, name: str) -> HTMLResponse:
        seen = runs.find(name)
        return page(request, _PACKAGE, "run.html", title=f"Run {seen.name}", run=seen, back=path, ask="")

    @router.get(f"{RUNS}/{{name}}/{{decision}}")
    def confirm(request: Request, name: str, decision: Taken) -> HTMLResponse:
        seen = runs.find(name)
        verb = _VERBS[decision]
        return page(
            request, _PACKAGE, "run.html", title=f"{verb} run {seen.name}?", run=seen, back=path, ask=verb
        )

    @router.post(f"{RUNS}/{{name}}/{{decision}}")
    async def decide(request: Request, name: str, decision: Taken) -> Response:
        fields = await form_of(request)
        seen = runs.find(name)
        if seen.name != name:  # the whole name, as the page that was read has it
            raise Forbidden("Open the run's page, and decide there")
        token.check(fields.get("token", ""))
        runs.decide(seen.name, decision, log, "dashboard")
        return RedirectResponse(f"{path}{RUNS}/{seen.name}", 303)

    @router.get("/log")
    def show_log(request: Request) -> HTMLResponse:
        entries = log.entries()
        rows = [
            (shown(one.get("time", "")), shown(one.get("event", "")), _facts(one))
            for one in reversed(entries[-_MOST_ENTRIES:])
        ]
        return page(
            request,
            _PACKAGE,
            "log.html",
            title="Log",
            rows=rows,
            total=len(entries),
            head=log.head(),
            back=path,
        )

    return token


_VERBS = dict(zip(get_args(Taken), ("Approve", "Decline"), strict=True))


def _facts(entry: dict[str, object]) -> str:
    hidden = ("time", "event", "before")
    return " ".join(f"{shown(key)}={shown(value)}" for key, value in entry.items() if key not in hidden)
