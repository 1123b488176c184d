"""``mmmed card``: the model card of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_FORMS = (".md", ".html")


def card(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Markdown or HTML by the name's end.", show_default="Markdown, printed"),
    ] = None,
    subgroups: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also scores of groups, from `mmmed evaluate --by ... --json FILE`: without noise, yours to tell.",
        ),
    ] = None,
) -> None:
    """Make a model card from a run's own files; what only people know is left as marked places to fill in."""
    from simulations.working import working

    if out is not None and out.suffix not in _FORMS:
        raise typer.BadParameter(f"--out must end in {' or '.join(_FORMS)}. Found {out.name}")
    with working("reading the run"):
        from mmmed.files import write_atomic
        from server.model_card import make_card, to_html, to_markdown

        made = make_card(run, subgroups)
    if out is None:
        print(to_markdown(made), end="")
        return
    write_atomic(out, to_html(made) if out.suffix == ".html" else to_markdown(made))
    print(out)
