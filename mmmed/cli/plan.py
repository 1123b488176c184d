"""``mmmed privacy plan``: what a budget buys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmmed.cli.ledger import open_ledger
from mmmed.cli.options import Assignments, ConfigFile, JsonFile, read_config

if TYPE_CHECKING:
    from privacy.accounting import DpSgdEvent


def plan(
    patients: Annotated[int, typer.Option(min=1, help="Patients that the site trains on.")],
    config: ConfigFile = None,
    assignments: Assignments = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Budget of the whole run.", show_default="the configuration's")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Must be below 1 / patients.", show_default="the configuration's")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds.", show_default="the configuration's")] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Local epochs a round.", show_default="the configuration's")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Expected patients a step.", show_default="the configuration's")
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(help="A site's folder or its state folder: also say what its ledger still allows."),
    ] = None,
    spread: Annotated[
        float,
        typer.Option(
            min=0,
            help="How much of a record's gradient is its own: its squared length over that of what all share.",
        ),
    ] = 9.0,
    json_file: JsonFile = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Also write all settings here.")] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Also write an interactive plot here; works offline.")
    ] = None,
) -> None:
    """Solve the noise for a budget, and show other ways to spend the same budget. Touches no data."""
    from contextlib import nullcontext

    from mmmed.cli.plan_tables import show_plan, trainable_sizes
    from privacy.planning import plan_training
    from privacy.planning.settings import alternatives, least_admitted_noise, setting, to_csv, with_ledger
    from privacy.report.interactive import plan_page

    given = {
        "privacy.target_epsilon": epsilon,
        "privacy.delta": delta,
        "federation.rounds": rounds,
        "training.local_epochs": epochs,
        "training.batch_size": batch_size,
    }
    chosen = read_config(config, assignments, given).config
    target, at = chosen.privacy.target_epsilon, chosen.privacy.delta
    solved = plan_training(
        patients=patients,
        batch_size=chosen.training.batch_size,
        local_epochs=chosen.training.local_epochs,
        rate=chosen.step_rate,
        rounds=chosen.federation.rounds,
        target_epsilon=target,
        delta=at,
    )
    worth = setting(solved.event, at, patients, chosen.training.records_per_patient, spread)
    settings = [worth, *alternatives(patients=patients, target_epsilon=target, delta=at, spread=spread)]
    allowed = None
    with open_ledger(ledger) if ledger else nullcontext() as opened:
        if opened is not None:

            def admits(event: DpSgdEvent) -> bool:
                return opened.admits(event, at)

            settings = with_ledger(settings, admits, opened.filter_epsilon)
            allowed = (opened.limit, least_admitted_noise(worth.sampling_rate, worth.steps, admits))
    sizes = trainable_sizes(chosen)
    show_plan(chosen, solved, settings, sizes, allowed, patients)
    title = f"Ways to spend epsilon {target:g} at delta {at:g} on {patients} patients"
    if json_file is not None:
        rows = [vars(one) | {"largest_dimension": one.largest_dimension} for one in settings]
        json_file.write_text(
            json.dumps({"settings": rows, "trainable": sizes}, indent=2) + "\n", encoding="utf-8"
        )
    if csv_file is not None:
        csv_file.write_text(to_csv(settings), encoding="utf-8")
    if html_file is not None:
        html_file.write_text(plan_page(settings[0], settings[1:], title), encoding="utf-8")
