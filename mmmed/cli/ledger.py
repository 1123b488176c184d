"""``mmmed privacy ledger ...``: what a site's patients were spent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmmed.cli.options import read_json

if TYPE_CHECKING:  # the ledger brings SciPy along: a quick --help does without
    from privacy.ledger import Ledger

app = typer.Typer(help="A site's ledger: what its patients were spent.", no_args_is_help=True)

State = Annotated[
    Path, typer.Argument(help="The site's folder, or its state folder, with ledger.db and site.key.")
]


@app.command("show")
def show(state: State) -> None:
    """What is left of the limit, and every run's plan."""
    from rich.console import Console
    from rich.table import Table

    from privacy.ledger import policy_digest
    from privacy.report import mechanism_cells, run_cell, shown

    with open_ledger(state) as ledger:
        limit = ledger.limit
        console = Console()
        console.print(f"limit: epsilon {limit.epsilon:g}, delta {limit.delta:g}; {ledger.head.seq} entries")
        console.print(f"signed by the site's key {ledger.signer}", soft_wrap=True)
        if ledger.keys:
            console.print(f"patients are named by keys {ledger.keys}")
        if ledger.policy is not None:
            console.print(f"policy recorded last: SHA-256 {policy_digest(ledger.policy)}", soft_wrap=True)
        spent = ledger.spent(limit.delta)
        console.print(f"spent so far by the worst patient: {shown(spent)} (an odometer reading)")
        table = Table(
            "run", "claimed epsilon", "noise multiplier", "sampling rate", "steps planned", "charged"
        )
        for one in ledger.plans():
            charged = sum(event.steps for event in ledger.events(one.run_id))
            table.add_row(run_cell(one.run_id), shown(one.epsilon), *mechanism_cells(one.event), str(charged))
        console.print(table)


@app.command("verify")
def verify(
    state: Annotated[
        Path, typer.Argument(help="The site's folder or its state folder; or, with --key, what export wrote.")
    ],
    heads: Annotated[
        list[str] | None,
        typer.Option("--head", help="A head that was noted before: it must be in there still. Repeatable."),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Of an export: the site's public key, hexadecimal, got from the site.")
    ] = None,
) -> None:
    """Check every entry, signature and digest. The head that it prints is to be noted where nobody can edit it."""
    from privacy.keys import parse_public_key
    from privacy.ledger import Head, verify_export

    noted = [Head.parse(text) for text in heads or ()]
    if key is not None:
        entries = read_json(state)
        verify_export(entries, parse_public_key(key), noted)
        print(f"{len(entries)} entries: unbroken, signed by the given key")
        return
    with open_ledger(state) as ledger:
        print(f"{ledger.verify(noted)} entries: unbroken, signed by the site's key\nhead {ledger.head}")


@app.command("export")
def export(
    state: State, out: Annotated[Path, typer.Argument(help="JSON file to write; holds no patient digest.")]
) -> None:
    """Write all entries as JSON that anyone with the site's public key can check."""
    with open_ledger(state) as ledger:
        out.write_text(json.dumps(ledger.export(), indent=2) + "\n", encoding="utf-8")
    print(f"wrote {out}")


def open_ledger(state: Path) -> Ledger:
    """The ledger of a site's folder or of its state folder. Raises LedgerError if there is none."""
    from client.site_folder import state_at

    return state_at(state).inspect()
