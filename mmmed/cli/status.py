"""What the coordinator sees: sites, runs, rounds."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from mmmed.config import resolve
from mmmed.federation.protocol import meaning
from mmmed.pki.certificates import days_left, read_certificate
from mmmed.text import shown
from server.deployment.authority import AUTHORITY_SOON
from server.deployment.control import Control
from server.deployment.folder import Folder
from server.deployment.runs import attempts, states
from server.deployment.sites import read_sites
from server.run_folder import finished_rounds, megabytes
from server.waits import waits_of

_WARN_DAYS = 30
_LOOK = 1.0  # seconds between two looks at a run that is followed


def show_status(folder: Folder) -> None:
    """Print the sites with their connection, the runs with their progress, and certificates that end soon.

    Raises:
        DeployError: the SuperLink does not answer.
    """
    console = Console()
    with Control(folder) as control:
        online = {node.public_key for node in control.nodes() if node.online}
        runs = states(folder, control)
    table = Table("site", "state", "certificate until", "key", box=None, pad_edge=False)
    for site in read_sites(folder):
        state = "revoked" if site.revoked else "online" if site.public_key in online else "offline"
        table.add_row(site.name, state, site.expires[:10], site.fingerprint[:17])
    console.print(table)
    if runs:
        columns = ("run", "at the sites", "state", "rounds", "down", "up")
        table = Table(*(Column(name, no_wrap=True) for name in columns), box=None, pad_edge=False)
        for run in runs:
            records = finished_rounds(folder.runs / run.name)
            crossed = [megabytes(records, way) for way in ("down", "up")]
            table.add_row(run.name, run.short, run.status, f"{run.done} of {run.rounds}", *crossed)
        console.print()
        console.print(table)
        for run in runs:
            if run.flower and run.flower.details:
                console.print(f"{run.name}: {escape(shown(run.flower.details))}")
            if run.flower and run.flower.active:
                for line in _waiting(folder, run.name):
                    console.print(escape(line))
    authority = days_left(read_certificate(folder.ca_certificate))
    if authority < AUTHORITY_SOON:
        console.print(
            f"\nthe authority's certificate ends in {authority:.0f} days: mmmed server renew", style="bold"
        )
    left = min(days_left(read_certificate(folder.certificate(name))) for name in ("server", "link"))
    if left < _WARN_DAYS:
        console.print(f"\nthe server's certificate ends in {left:.0f} days: mmmed server renew", style="bold")


def show_log(folder: Folder, name: str, *, follow: bool) -> None:
    """Print a run's finished rounds, a line each, whom it waits for, and how it ended.

    Raises:
        DeployError: no such run, or the SuperLink does not answer.
    """
    numbers = attempts(folder, name)
    told, changed, waited = 0, False, list[str]()
    while True:
        with Control(folder) as control:
            flower = control.runs().get(numbers[-1]) if numbers else None
        for record in finished_rounds(folder.runs / name)[told:]:
            print(_line(record))
            told, changed = told + 1, changed or record["changed"]
        waiting = _waiting(folder, name) if flower is not None and flower.active else []
        for line in waiting if waiting != waited else ():
            print(line)
        waited = waiting
        if flower is None or not follow or not flower.active:
            break
        time.sleep(_LOOK)
    if flower is None:
        print(f"run {name} is unknown to the SuperLink; `mmmed server resume {name}` continues it")
        return
    print(f"run {name}: {flower.status}" + (f" ({shown(flower.details, 500)})" if flower.details else ""))
    done = told == resolve(folder.runs / name / "config.toml").config.federation.rounds and not changed
    if flower.status.startswith("finished") and not flower.status.endswith("completed") and not done:
        print(f"`mmmed server resume {name}` continues it after the last finished round")


def _waiting(folder: Folder, run: str) -> list[str]:
    """Whom a run waits for, a line each."""
    return [f"{run} waits for {shown(site)}: {words}" for site, words in waits_of(folder.runs / run).items()]


def _line(record: dict[str, Any]) -> str:
    good = [line["site"] for line in record["train"] if "refused" not in line]
    bad = [f"{line['site']} {_told(line['refused'])}" for line in record["train"] if "refused" in line]
    parts = [
        f"round {record['round']}: {record['train_seconds']:.0f} s",
        f"updates of {', '.join(good) or 'none'}",
    ]
    if bad:
        parts.append(f"refused: {', '.join(bad)}")
    parts.append(f"{megabytes([record], 'down')} down, {megabytes([record], 'up')} up")
    if not record["changed"]:
        parts.append("too few, so nothing changed")
    return "; ".join(parts)


def _told(code: str) -> str:
    """A refusal's code with what it means."""
    return f"{code} ({words})" if (words := meaning(code)) else code
