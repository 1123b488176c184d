"""The dashboard's page of a log."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from mmmed.dashboard import Section, page
from mmmed.watch.log import WatchFolder
from mmmed.watch.report import report
from mmmed.watch.show import values

_PACKAGE = "mmmed.watch"


def watch_section(folder: Path, *, path: str = "/watch") -> Section:
    """The page of the log in a folder; `path` is where it begins."""
    router = APIRouter()

    @lru_cache(maxsize=1)
    def shown(_: tuple[tuple[str, int, int], ...]) -> dict[str, Any]:
        return values(report(WatchFolder.open(folder)))

    @router.get("")
    def overview(request: Request) -> HTMLResponse:
        state = tuple(
            (f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in sorted(folder.glob("*.jsonl"))
        )
        return page(request, _PACKAGE, "watch.html", title="A model in use", **shown(state))

    return Section("Watch", path, router, _PACKAGE)
