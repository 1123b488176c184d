"""The ``mmmed`` command. It only assembles: each command reads its options and calls one function."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mmmed import __version__
from mmmed.cli import (
    card,
    config,
    dashboard,
    export,
    personalise,
    poc,
    predict,
    privacy,
    serve,
    server,
    simulate,
    site,
    watch,
)
from mmmed.quiet import quieten

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(simulate.evaluate)
app.command()(poc.poc)
app.command()(predict.predict)
app.command()(export.export)
app.command()(personalise.personalise)
app.command()(serve.serve)
app.command()(card.card)
app.command()(dashboard.dashboard)
app.add_typer(simulate.app, name="simulate")
app.add_typer(config.app, name="config")
app.add_typer(privacy.app, name="privacy")
app.add_typer(site.app, name="site")
app.add_typer(server.app, name="server")
app.add_typer(watch.app, name="watch")


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


def main() -> None:
    """Run the command; what the user can mend is told in one message, without a traceback, with exit code 2."""
    from mmmed.errors import MmmedError
    from mmmed.extras import extra_of, sentence
    from mmmed.text import escaped
    from privacy.errors import PrivacyError

    try:
        app()
    except (MmmedError, PrivacyError) as error:
        sys.stderr.write(f"error: {escaped(str(error), keep=chr(10))}\n")  # it may quote others
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
