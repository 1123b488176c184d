"""``mmmed server ...``: the coordinator's commands, all on one federation folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmmed.cli.options import read_config

if TYPE_CHECKING:
    from server.deployment.folder import Folder
    from server.deployment.provision import Organisation

app = typer.Typer(help="At the coordinator: put a federation on the air and run it.", no_args_is_help=True)

FolderOption = Annotated[Path, typer.Option("--folder", help="The federation's folder.")]
RunName = Annotated[str | None, typer.Argument(help="Name of the run.", show_default="the newest")]
Certificate = Annotated[
    Path | None,
    typer.Option("--certificate", help="The organisation's own server certificate with its chain, PEM."),
]
CertificateKey = Annotated[Path | None, typer.Option("--key", help="Its private key, PEM.")]
Root = Annotated[Path | None, typer.Option("--root", help="The root that it chains to, PEM.")]
HERE = Path("federation")


@app.command()
def init(
    address: Annotated[
        str, typer.Argument(help="Host name or IP address under which hospitals reach this machine.")
    ],
    requests: Annotated[
        list[Path] | None, typer.Argument(help="Hospitals' requests, as `mmmed site init` wrote them.")
    ] = None,
    folder: FolderOption = HERE,
    port: Annotated[int, typer.Option(help="Published port.")] = 8443,
    listen: Annotated[str, typer.Option(help="Local address to publish it on.")] = "0.0.0.0",
    link_port: Annotated[int, typer.Option(help="The SuperLink's port on the loopback address.")] = 9092,
    certificate: Certificate = None,
    key: CertificateKey = None,
    root: Root = None,
) -> None:
    """Make certificates, the list of sites, and a start-up kit for each request."""
    from server.deployment.folder import Folder, Settings
    from server.deployment.provision import provision

    where = Folder(folder)
    provision(where, Settings(address, port, listen, link_port), _organisation(certificate, key, root))
    for request in requests or ():
        _admit(where, request, None)
    print(f"{where.path}: keep it secret and backed up. Next: mmmed server start")


@app.command("add-site")
def add_site(
    name: Annotated[str, typer.Argument(help="The hospital's name, as in its request.")],
    request: Annotated[Path, typer.Argument(help="What its `mmmed site init` wrote.")],
    folder: FolderOption = HERE,
) -> None:
    """Admit a hospital, or renew its certificate: sign its request and write its start-up kit."""
    from server.deployment.folder import Folder
    from server.deployment.start import apply_sites

    where = Folder(folder)
    _admit(where, request, name)
    apply_sites(where)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The hospital's name.")], folder: FolderOption = HERE
) -> None:
    """Shut a hospital's key out, at once and for ever."""
    from server.deployment.folder import Folder
    from server.deployment.sites import revoke as strike
    from server.deployment.start import apply_sites

    where = Folder(folder)
    entry = strike(where, name)
    running = apply_sites(where)
    print(f"{name} is shut out{'' if running else ' from the next start on (the federation is not running)'}")
    print(f"  key {entry.fingerprint}")


@app.command()
def renew(
    folder: FolderOption = HERE,
    certificate: Certificate = None,
    key: CertificateKey = None,
    root: Root = None,
) -> None:
    """Renew the server's certificates, and the authority's in its last years. Sites notice nothing."""
    from server.deployment.folder import Folder
    from server.deployment.provision import renew as run
    from server.deployment.start import apply_sites

    where = Folder(folder)
    run(where, _organisation(certificate, key, root))
    apply_sites(where)
    print("renewed; a running SuperLink takes its own on the next start")


@app.command()
def start(folder: FolderOption = HERE) -> None:
    """Run the SuperLink, its executor and nginx until Ctrl-C."""
    from server.deployment.folder import Folder
    from server.deployment.start import start as run

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    run(Folder(folder))


@app.command("run")
def run_command(
    config: Annotated[Path | None, typer.Argument(help="TOML file of the run configuration.")] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="section.key=value")] = None,
    folder: FolderOption = HERE,
) -> None:
    """Start a run and print its name."""
    from server.deployment.folder import Folder
    from server.deployment.runs import begin

    print(begin(Folder(folder), read_config(config, assignments).config))


@app.command()
def check(
    config: Annotated[Path | None, typer.Argument(help="TOML file of the run configuration.")] = None,
    policies: Annotated[
        list[Path] | None,
        typer.Option("--policy", help="Read this policy file, signed or not, and ask nobody (repeat)."),
    ] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="section.key=value")] = None,
    wait: Annotated[float, typer.Option(min=1, max=3600, help="Seconds to wait for the sites.")] = 60,
    folder: FolderOption = HERE,
) -> None:
    """Ask the connected sites who would refuse a run, and by which rule. Charges nothing. Exit 1 if any would."""
    from mmmed.cli.checks import ask_sites, read_policies

    run = read_config(config, assignments).config
    if policies:
        willing = read_policies(policies, run)
    else:
        from server.deployment.folder import Folder

        willing = ask_sites(Folder(folder), run, wait)
    if not willing:
        raise typer.Exit(1)


@app.command()
def resume(run: RunName = None, folder: FolderOption = HERE) -> None:
    """Go on with a run after its last finished round."""
    from server.deployment.folder import Folder
    from server.deployment.runs import newest
    from server.deployment.runs import resume as go_on

    where = Folder(folder)
    name = run or newest(where)
    go_on(where, name)
    print(name)


@app.command()
def stop(run: RunName = None, folder: FolderOption = HERE) -> None:
    """Stop a run; `resume` continues it."""
    from server.deployment.folder import Folder
    from server.deployment.runs import newest
    from server.deployment.runs import stop as end

    where = Folder(folder)
    end(where, run or newest(where))


@app.command()
def status(folder: FolderOption = HERE) -> None:
    """Show the sites and the runs."""
    from mmmed.cli.status import show_status
    from server.deployment.folder import Folder

    show_status(Folder(folder))


@app.command("log")
def log_command(
    run: RunName = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    folder: FolderOption = HERE,
) -> None:
    """Show a run round by round, and why it ended."""
    from mmmed.cli.status import show_log
    from server.deployment.folder import Folder
    from server.deployment.runs import newest

    where = Folder(folder)
    show_log(where, run or newest(where), follow=follow)


def _admit(folder: Folder, request: Path, name: str | None) -> None:
    from server.deployment.sites import admit

    entry, kit = admit(folder, request, name)
    print(f"{entry.name}: {kit}")
    print(f"  key {entry.fingerprint}")
    print("  compare it by telephone with what `mmmed site init` printed at the hospital, then send the kit")


def _organisation(certificate: Path | None, key: Path | None, root: Path | None) -> Organisation | None:
    from mmmed.errors import ConfigError
    from server.deployment.provision import Organisation

    if certificate is None and key is None and root is None:
        return None
    if certificate is None or key is None or root is None:
        raise ConfigError("--certificate, --key and --root go together")
    return Organisation(certificate, key, root)
