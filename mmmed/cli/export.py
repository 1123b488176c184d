"""``mmmed export``: a trained model in the form of another tool."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmmed.export import FORMATS, check, write

_FORMS = "; ".join(f"{name}: {form.about}" for name, form in FORMATS.items())


def export(
    run: Annotated[Path, typer.Argument(help="Run folder, or a model folder.")],
    to: Annotated[str, typer.Option(metavar="FORMAT", help=_FORMS, show_default=False)],
    out: Annotated[Path, typer.Option(help="A new folder for it.", show_default=False)],
) -> None:
    """Write a trained model for another tool, with what it reads, what it predicts and the run's privacy."""
    from simulations.working import working

    check(to, out)
    with working("writing and checking the model"):
        from mmmed.export.trained import read_trained

        write(read_trained(run), to, out)
    print(f"{to}: {out}")
