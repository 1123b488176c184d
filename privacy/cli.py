"""``mmmed privacy ...``: the privacy officer's commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from privacy.errors import LedgerError, ReportError
from privacy.policy_cli import app as policy_app

if TYPE_CHECKING:  # the ledger brings SciPy along: a quick --help does without
    from privacy.ledger import Ledger

app = typer.Typer(help="Plan a privacy budget, read and check what was spent.", no_args_is_help=True)
ledger_app = typer.Typer(help="A site's ledger: what its patients were spent.", no_args_is_help=True)
app.add_typer(ledger_app, name="ledger")
app.add_typer(policy_app, name="policy")

State = Annotated[Path, typer.Argument(help="The site's state folder, with ledger.db and site.key.")]


@app.command()
def plan(
    patients: Annotated[int, typer.Option(min=1, help="Patients that the site trains on.")],
    epsilon: Annotated[float, typer.Option(help="Budget of the whole run.")] = 8.0,
    delta: Annotated[float, typer.Option(help="Must be below 1 / patients.")] = 1e-3,
    rounds: Annotated[int, typer.Option(help="Federated rounds.")] = 3,
    epochs: Annotated[float, typer.Option(help="Local epochs a round.")] = 4.0,
    batch_size: Annotated[int, typer.Option(help="Expected patients a step.")] = 128,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the settings here.")] = None,
) -> None:
    """Solve the noise for a budget, and show other ways to spend the same budget. Touches no data."""
    from privacy.planner import alternatives, asked
    from privacy.report import shown

    solved, worth = asked(
        patients=patients,
        batch_size=batch_size,
        local_epochs=epochs,
        rounds=rounds,
        target_epsilon=epsilon,
        delta=delta,
    )
    others = alternatives(patients=patients, target_epsilon=epsilon, delta=delta)
    table = Table(title=f"Ways to spend epsilon {epsilon:g} at delta {delta:g}", title_justify="left")
    for heading in ("", "sampling rate", "steps", "noise multiplier", "epsilon", "passes", "signal / noise"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, one in [("as asked", worth), *(("", other) for other in others)]:
        table.add_row(
            name,
            f"{one.sampling_rate:.4g}",
            str(one.steps),
            f"{one.noise_multiplier:.4f}",
            shown(one.epsilon),
            f"{one.passes:.3g}",
            f"{one.signal_to_noise:.3g}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"As asked: {solved.steps_per_round} steps in each of {rounds} rounds. Signal / noise is for one coordinate "
        f"and gradients that all agree; beyond {worth.largest_dimension:,} trained parameters the noise is longer "
        "than even that signal."
    )
    if json_file is not None:
        rows = [vars(one) for one in [worth, *others]]
        json_file.write_text(json.dumps({"settings": rows}, indent=2) + "\n", encoding="utf-8")


@app.command()
def verify(
    report: Annotated[Path, typer.Argument(help="privacy.json of a run.")],
    keys: Annotated[
        Path | None, typer.Option(help="JSON file: site name to its public key in hexadecimal.")
    ] = None,
) -> None:
    """Check every signature and recompute every number of a privacy report. Exit 1 on any finding."""
    from privacy.report import verify_report

    findings = verify_report(_json(report), _json(keys) if keys else None)
    for finding in findings:
        print(finding)
    if findings:
        raise typer.Exit(1)
    print(f"{report}: signed as stated, and every number follows from the signed events")


@ledger_app.command("show")
def ledger_show(state: State) -> None:
    """What is left of the limit, and every run's plan."""
    from privacy.report import shown

    with _open(state) as ledger:
        limit = ledger.limit
        console = Console()
        console.print(f"limit: epsilon {limit.epsilon:g}, delta {limit.delta:g}; {ledger.head.seq} entries")
        spent = ledger.spent(limit.delta)
        console.print(f"spent so far by the worst patient: {shown(spent)} (PLD, an odometer reading)")
        table = Table(
            "run", "claimed epsilon", "noise multiplier", "sampling rate", "steps planned", "charged"
        )
        for one in ledger.plans():
            charged = sum(event.steps for event in ledger.events(one.run_id))
            event = one.event
            numbers = (f"{event.noise_multiplier:.4f}", f"{event.sampling_rate:.4g}", str(event.steps))
            table.add_row(one.run_id[:12], shown(one.epsilon), *numbers, str(charged))
        console.print(table)


@ledger_app.command("verify")
def ledger_verify(state: State) -> None:
    """Check every entry, signature and digest."""
    with _open(state) as ledger:
        print(f"{ledger.verify()} entries: unbroken, signed by the site's key")


@ledger_app.command("export")
def ledger_export(
    state: State, out: Annotated[Path, typer.Argument(help="JSON file to write; holds no patient digest.")]
) -> None:
    """Write all entries as JSON that anyone with the site's public key can check."""
    with _open(state) as ledger:
        out.write_text(json.dumps(ledger.export(), indent=2) + "\n", encoding="utf-8")
    print(f"wrote {out}")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReportError(f"{path}: not JSON text: {error}") from error


def _open(state: Path) -> Ledger:
    from privacy.keys import load_key
    from privacy.ledger import Ledger

    file, key = state / "ledger.db", state / "site.key"
    for path in (file, key):
        if not path.is_file():
            raise LedgerError(
                f"{path}: no such file. Expected a site's state folder, such as runs/<run>/sites/<site>."
            )
    return Ledger.inspect(file, load_key(key))
