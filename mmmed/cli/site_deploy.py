"""``mmmed site ...``: connect a hospital to a federation, watch what is asked of it, and decide."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer()

Site = Annotated[Path, typer.Option("--site", help="The site's folder.")]
Run = Annotated[str, typer.Argument(help="Name of the run, as `mmmed site runs` lists it.")]
HERE = Path("site")


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="The hospital's name in the federation.")],
    site: Site = HERE,
    new_key: Annotated[bool, typer.Option("--new-key", help="Replace a key that others may know.")] = False,
) -> None:
    """Make this hospital's key and the request that the coordinator signs. The key never leaves."""
    from client.node.folder import NodeFolder
    from client.site_folder import SiteFolder

    folder = NodeFolder(site)
    request = folder.create(name, new_key=new_key)
    print(f"{request}: send this to the coordinator")
    print(f"  key {folder.fingerprint(request)}")
    print("  read it to the coordinator by telephone, who compares it")
    print(f"{SiteFolder(folder.site).file}: say there where the data are")
    print("the privacy officer's signed policy goes beside it: mmmed privacy policy init, sign")


@app.command()
def start(
    kit: Annotated[
        Path | None, typer.Argument(help="The coordinator's kit; only needed when it is new.")
    ] = None,
    site: Site = HERE,
) -> None:
    """Take part in the federation until Ctrl-C."""
    from client.node.folder import NodeFolder
    from client.node.start import start as run

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    run(NodeFolder(site), kit)


@app.command()
def renew(kit: Annotated[Path, typer.Argument(help="The coordinator's new kit.")], site: Site = HERE) -> None:
    """Take a new certificate for the same key. A site that runs uses it from its next start."""
    from client.node.folder import NodeFolder
    from mmmed.pki.certificates import days_left, parse_certificate
    from mmmed.pki.kit import Kit

    folder = NodeFolder(site)
    folder.join(kit)
    left = days_left(parse_certificate(Kit.read(kit).certificate.encode(), str(kit)))
    print(f"the certificate holds for {left:.0f} days. If the site runs, start it again")


@app.command()
def doctor(site: Site = HERE) -> None:
    """Check clock, certificates, connection, disk, GPU, data, policy, budget; say how to mend each. Exit 1 if bad."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from client.node.doctor import examine
    from client.node.folder import NodeFolder
    from mmmed.text import shown

    table = Table("", "check", "found", "to mend it", box=None, pad_edge=False)
    signs = {"good": "ok", "look": "[yellow]look[/]", "bad": "[red]BAD[/]"}
    findings = examine(NodeFolder(site))
    for one in findings:
        table.add_row(signs[one.verdict], one.what, escape(shown(one.found, 500)), escape(one.mend))
    Console().print(table)
    if any(one.verdict == "bad" for one in findings):
        raise typer.Exit(1)


@app.command()
def runs(site: Site = HERE) -> None:
    """List the runs that asked for approval: what each would do and spend, and all settings of those that wait."""
    from client.node.approval import RunApprovals
    from client.node.folder import NodeFolder
    from mmmed.text import shown

    for run in RunApprovals(NodeFolder(site).runs).all():
        print(f"{run.name}  {shown(run.decision):8}  since {shown(run.first)}")
        for line in run.in_words():
            print(f"    {line}")
        if run.decision == "waiting":
            print("    all settings; * differs from the default")
            for line in run.settings():
                print(f"      {line}")


@app.command()
def approve(run: Run, site: Site = HERE) -> None:
    """Let a run go on that waits for approval; the policy still holds."""
    _decide(run, site, "approved")


@app.command()
def deny(run: Run, site: Site = HERE) -> None:
    """Refuse a run, also one that was approved before."""
    _decide(run, site, "denied")


@app.command()
def log(site: Site = HERE) -> None:
    """Verify the log of what was asked, decided and sent, print it, and the digest to note elsewhere."""
    from client.node.folder import NodeFolder
    from client.node.log import SiteLog
    from mmmed.text import shown

    kept = SiteLog(NodeFolder(site).audit)
    for entry in kept.entries():
        facts = " ".join(
            f"{shown(key)}={shown(value)}"
            for key, value in entry.items()
            if key not in ("time", "event", "before")
        )
        print(f"{shown(entry['time'])} {shown(entry['event']):8} {facts}")
    print(f"whole; its head is {kept.head()}")


@app.command(hidden=True)
def audit(site: Site = HERE) -> None:
    """The former name of `mmmed site log`."""
    sys.stderr.write("note: `mmmed site audit` is now `mmmed site log`\n")
    log(site)


def _decide(run: str, site: Path, decision: Literal["approved", "denied"]) -> None:
    """Decide about a run, and note it in the site's log."""
    from client.node.approval import RunApprovals
    from client.node.folder import NodeFolder
    from client.node.log import SiteLog

    folder = NodeFolder(site)
    decided = RunApprovals(folder.runs).decide(run, decision, SiteLog(folder.audit), "command")
    print(f"{decided.name} {decision}")
