"""``mmmed watch ...``: how a model in use does at a site, from the log of its predictions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mmmed.watch import Report

_WIDTH = 80
app = typer.Typer(
    help="At a site: how a model in use does, from its log. Nothing leaves.", no_args_is_help=True
)

Folder = Annotated[Path, typer.Argument(help="Folder of the log, as `--log` of predict and serve made it.")]


@app.command()
def show(
    folder: Folder,
    page: Annotated[
        Path | None, typer.Option(help="Also write it as one HTML page, which stays here.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="DAY..DAY", help="Days to compare with.", show_default="the model's first 30"),
    ] = None,
    now: Annotated[
        str | None,
        typer.Option(metavar="DAY..DAY", help="Days that are compared.", show_default="the last 30"),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Begin of a model's digest.", show_default="the one that predicted last")
    ] = "",
) -> None:
    """Show drift, what is missing, calibration, and gaps between groups of patients. Days are in UTC."""
    from mmmed.files import write_atomic
    from mmmed.watch import Period, WatchFolder, report
    from mmmed.watch.show import to_html

    periods = [Period.parse(text) if text else None for text in (reference, now)]
    found = report(WatchFolder.open(folder), model=model, reference=periods[0], now=periods[1])
    print(in_words(found), end="")
    if page is not None:
        write_atomic(page, to_html(found), durable=False, mode=0o600)


@app.command("add-labels")
def add_labels_command(
    folder: Folder,
    table: Annotated[
        Path, typer.Argument(help="CSV or Parquet: the study, and the columns of the model's labels.")
    ],
    study: Annotated[
        str, typer.Option(help="Column of the study.", show_default="as in the model's training table")
    ] = "",
    correct: Annotated[
        bool, typer.Option("--correct", help="Take labels that contradict earlier ones in their place.")
    ] = False,
) -> None:
    """Add labels that came later. Only pseudonyms of studies and their labels are kept."""
    from mmmed.watch import WatchFolder, add_labels

    added = add_labels(WatchFolder.open(folder), table, study, correct=correct)
    print(f"{added.new} labels added, {added.corrected} corrected, {added.same} known before")
    if added.unknown:
        print(f"{added.unknown} are of studies that are not in the log: left out")
    if added.unlabelled:
        print(f"{added.unlabelled} rows have no study or no label: left out")


@app.command()
def prune(
    folder: Folder,
    before: Annotated[str, typer.Argument(metavar="MONTH", help="Such as 2026-06; this month is kept.")],
    with_reference: Annotated[
        bool, typer.Option("--with-reference", help="Also the days that the model in use is compared with.")
    ] = False,
) -> None:
    """Delete whole months of the log, and the labels of their studies, for good."""
    from mmmed.watch import WatchFolder, prune_log

    gone = prune_log(WatchFolder.open(folder), before, with_reference=with_reference)
    print(f"deleted: {', '.join(gone)}" if gone else f"there is no month before {before}")


@app.command()
def forget(
    folder: Folder,
    patient: Annotated[list[str] | None, typer.Option(help="Id of a patient; repeat.")] = None,
    study: Annotated[list[str] | None, typer.Option(help="Id of a study; repeat.")] = None,
) -> None:
    """Delete all that the log holds of a patient or a study, such as after a withdrawal."""
    from mmmed.watch import WatchFolder

    if not patient and not study:
        raise typer.BadParameter("say whom: --patient ID, or --study ID")
    gone = WatchFolder.open(folder).forget(studies=study or (), patients=patient or ())
    print(f"{gone} predictions deleted, with their labels")


def in_words(found: Report) -> str:
    """A report as text of at most 80 columns."""
    import io

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from mmmed.text import shown
    from mmmed.watch.show import BELOW, heading, parts

    out = io.StringIO()
    console = Console(file=out, width=_WIDTH, highlight=False)
    for line in heading(found):
        console.print(escape(line))
    for part in parts(found):
        console.print(f"\n[bold]{escape(part.title)}[/bold]")
        if not part.rows:
            console.print(escape(part.empty))
            continue
        table = Table(box=None, pad_edge=False)
        for title in part.head:
            table.add_column(escape(title), overflow="fold")
        for row in part.rows:
            table.add_row(*(escape(shown(cell)) for cell in row))
        console.print(table)
    console.print()
    for line in BELOW:
        console.print(escape(line))
    return out.getvalue()
