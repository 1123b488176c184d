"""The ``mmmed`` command. It only assembles: each command reads its options and calls one function."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli import app as site_app
from mmmed import __version__
from mmmed.cli_options import Assignments, ConfigFile, DataFolder, read_config
from mmmed.cli_privacy import app as privacy_app
from mmmed.quiet import quieten
from server.cli import app as server_app

if TYPE_CHECKING:
    from mmmed.web import Section

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="The run configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(privacy_app, name="privacy")
app.add_typer(site_app, name="site")
app.add_typer(server_app, name="server")


def _say_version(asked: bool) -> None:
    if asked:
        print(f"mmmed {__version__}")
        raise typer.Exit


@app.callback()
def every_command(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_say_version, is_eager=True),
    ] = False,
) -> None:
    """Train one private imaging + clinical-text model across hospitals that share no data."""
    quieten()


@app.command()
def simulate(
    config: ConfigFile = None,
    data: DataFolder = None,
    assignments: Assignments = None,
    non_private: Annotated[bool, typer.Option("--non-private", help="Train without privacy.")] = False,
    rounds: Annotated[int | None, typer.Option(help="Federated rounds.", show_default=False)] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Target epsilon of each site.", show_default=False)
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Initialisation, splits, augmentation; never noise.", show_default=False),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="inprocess, or ray for Flower's own simulation engine.")
    ] = "inprocess",
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that train sites; 0 trains in this one.", show_default="cores"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder.", show_default="runs/<date and time>")] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="Let every site keep to this site policy, to try it. It needs no signature."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue the run in this folder after its last finished round.")
    ] = None,
) -> None:
    """Train across simulated hospitals on this machine: one command, no server."""
    from simulations.simulate import resume_run, start_run

    if resume is not None:
        given = (config, data, assignments, rounds, epsilon, seed, out, non_private or None, policy)
        if any(value is not None for value in given):
            raise typer.BadParameter(
                "--resume takes the configuration of its run: give no other option of it"
            )
        resume_run(resume, engine=engine, workers=workers)
        return
    options = {
        "data.source": data,
        "federation.rounds": rounds,
        "privacy.target_epsilon": epsilon,
        "privacy.enabled": False if non_private else None,
        "training.seed": seed,
    }
    resolved = read_config(config, assignments, options).config
    start_run(resolved, folder=out, engine=engine, workers=workers, policy=policy)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder, or a model folder.")],
    data: DataFolder = None,
) -> None:
    """Evaluate a trained model on held-out studies, beside the site-only guess."""
    from simulations.simulate import evaluate_run

    evaluate_run(run, data)


@app.command()
def dashboard(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            help="What to show: a folder of runs or one run, a federation's folder, a hospital's site folder.",
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
    """Show budgets, runs, sites, refusals and audits in a browser; reads only."""
    from mmmed.web.serve import serve

    sections = [section for folder in folders or [Path("runs")] for section in _sections(folder)]
    serve(sections, host=host, port=port, certificate=certificate, key=key)


def _sections(folder: Path) -> list[Section]:
    """The pages of a folder, by what it holds."""
    from client.dashboard import deployed_section, is_site, is_state, site_section
    from server.dashboard import consortium_section, coordinator_section, is_federation

    if is_site(folder):
        return [deployed_section(folder)]
    if is_state(folder):
        return [site_section(folder.name, folder)]
    if is_federation(folder):
        return [coordinator_section(folder)]
    simulated = sorted(path for path in (folder / "sites").glob("*") if is_state(path))
    return [
        consortium_section(folder),
        *(site_section(path.name, path, path=f"/sites/{i}") for i, path in enumerate(simulated, start=1)),
    ]


@config_app.command("show")
def config_show(config: ConfigFile = None, assignments: Assignments = None) -> None:
    """Print the whole configuration, and where each value comes from; only keys that the chosen kinds read."""
    from rich.console import Console
    from rich.table import Table

    from mmmed.config.keys import describe

    resolved = read_config(config, assignments)
    table = Table("key", "value", "from", "meaning", box=None, pad_edge=False)
    for key, value, meaning in describe(resolved.config):
        table.add_row(key, value, resolved.sources[key], meaning)
    Console().print(table)


def main() -> None:
    """Run the command; what the user can mend is told in one message, without a traceback, with exit code 2."""
    from mmmed.errors import MmmedError
    from mmmed.extras import extra_of, sentence
    from privacy.errors import PrivacyError

    try:
        app()
    except (MmmedError, PrivacyError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except ModuleNotFoundError as error:
        extra = extra_of(error.name)
        if extra is None:
            raise
        sys.stderr.write(f"error: {sentence('This command', extra, str(error.name))}\n")
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that may not be written
        sys.stderr.write(f"error: {error.filename or 'input or output'}: {error.strerror or error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
