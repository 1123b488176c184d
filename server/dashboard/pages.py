"""The consortium's pages: runs, one run, the sites that are connected."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from mmmed.dashboard import Section, page
from mmmed.errors import RunError
from mmmed.federation.protocol import meaning
from privacy.errors import ReportError
from privacy.report import shown
from server.dashboard.figures import against_round, rows
from server.dashboard.runs import REPORTS, RunView, read_runs

_PACKAGE = "server.dashboard"
_REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
SitesOnline = Callable[[], tuple[list[tuple[str, str, str]], str]]


def consortium_section(root: Path, online: SitesOnline | None = None) -> Section:
    """Pages of the runs below ``root``.

    Args:
        root: a folder of run folders, or one run folder.
        online: returns each site's name, state and certificate end, and why they are not known ("" if they are).
            Without it nothing is said of connections.
    """
    router = APIRouter()

    def one(name: str) -> RunView:
        known = {run.name: run for run in read_runs(root)}
        if name not in known:
            raise RunError(f"no run {name!r} here")
        return known[name]

    @router.get("")
    def overview(request: Request) -> HTMLResponse:
        sites, problem = online() if online is not None else ([], "")
        runs = read_runs(root)
        return page(
            request,
            _PACKAGE,
            "runs.html",
            title="Runs",
            runs=[_row(run) for run in runs],
            asked=online is not None,
            sites=sites,
            problem=problem,
            refusals=_codes(runs),
        )

    @router.get("/{name}")
    def run(request: Request, name: str) -> HTMLResponse:
        found = one(name)
        return page(request, _PACKAGE, "run.html", title=f"Run {name}", run=found, **_numbers(found))

    @router.get("/{name}/live")
    def live(request: Request, name: str) -> HTMLResponse:
        return page(request, _PACKAGE, "live.html", title="", run=one(name))

    @router.get("/{name}/epsilon.json")
    def epsilon(name: str) -> dict[str, Any]:
        found = one(name)
        return against_round(found.epsilon, "epsilon", limit=found.config.privacy.target_epsilon)

    @router.get("/{name}/score.json")
    def score(name: str) -> dict[str, Any]:
        found = one(name)
        return against_round(found.scored, found.score.title)

    @router.get("/{name}/report/{file}")
    def report(name: str, file: str) -> Response:
        found = one(name)
        if file not in found.reports:
            raise RunError(f"run {name} has no {file} yet")
        text = (found.path / "report" / file).read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"Content-Security-Policy": _REPORT_POLICY})

    return Section("Runs", "/runs", router, _PACKAGE)


def _row(run: RunView) -> list[Any]:
    epsilon = "no privacy" if not run.config.privacy.enabled else "-"
    if not math.isnan(run.worst_epsilon):
        epsilon = f"{shown(run.worst_epsilon)} of {run.config.privacy.target_epsilon:g}"
    link = {"href": f"/runs/{run.name}", "text": run.name}
    return [link, run.progress, epsilon, str(len(run.sites)), str(len(run.refusals))]


def _codes(runs: list[RunView]) -> list[list[str]]:
    """How often each site refused with each code, and what the code means."""
    counts = Counter((site, code) for run in runs for _, _, site, code in run.refusals)
    return [[site, code, meaning(code), str(n)] for (site, code), n in sorted(counts.items())]


def _numbers(run: RunView) -> dict[str, Any]:
    epsilon, scored = run.epsilon, run.scored
    refusals = [[str(n), phase, site, code, meaning(code)] for n, phase, site, code in run.refusals]
    return {
        "epsilon": (["round", *sorted(epsilon)], rows(epsilon)),
        "scored": (["round", *sorted(scored)], rows(scored)),
        "refusals": refusals,
        "reports": [(name, REPORTS[name]) for name in run.reports],
        **_audited(run),
    }


def _audited(run: RunView) -> dict[str, Any]:
    try:
        audit, problem = run.audit, ""
    except ReportError as error:
        audit, problem = None, str(error)
    checks, bounds = (audit.checks, audit.bounds) if audit else ((), ())
    return {
        "audit": audit,
        "audit_problem": problem,
        "checks": [[c.code, c.claim, c.found, "holds" if c.passed else "VIOLATED"] for c in checks],
        "bounds": [[b.code, b.method, f"{b.epsilon:.3f}", shown(b.claimed_epsilon)] for b in bounds],
    }
