"""``mmmed privacy plan``: what a budget buys."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmmed.cli.ledger import open_ledger
from mmmed.cli.options import Assignments, ConfigFile, JsonFile, read_config

if TYPE_CHECKING:
    from mmmed.config import RunConfig
    from privacy.accounting import DpSgdEvent
    from privacy.planning.settings import Setting


def plan(
    patients: Annotated[
        int, typer.Option(min=1, help="Patients to train on, of all --sites together, or of one site.")
    ],
    sites: Annotated[
        int, typer.Option(min=1, help="Sites: with 2 or more, recommend how they train together.")
    ] = 1,
    honest: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of the sites, how many are taken to be honest where they share noise.",
            show_default="3/4",
        ),
    ] = None,
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
    model: Annotated[
        bool,
        typer.Option("--model", help="Also build the configured model: what of it can be trained. Slower."),
    ] = False,
    json_file: JsonFile = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Also write all settings here.")] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Also write an interactive plot here; works offline.")
    ] = None,
) -> None:
    """Recommend settings for a federation, or show ways to spend a site's budget. Touches no data."""
    given = {
        "privacy.target_epsilon": epsilon,
        "privacy.delta": delta,
        "federation.rounds": rounds,
        "training.local_epochs": epochs,
        "training.batch_size": batch_size,
    }
    chosen = read_config(config, assignments, given).config
    body: dict[str, Any] = {}
    if sites > 1:
        body |= _federation(chosen, patients, sites, honest, spread)
        tree = body["recommended"]  # what a site of it is asked
        parts = {
            name: getattr(chosen, name).model_copy(update=tree[name]) for name in ("training", "federation")
        }
        chosen = chosen.model_copy(update=parts)
    listed = any(file is not None for file in (json_file, csv_file, html_file))
    if sites == 1 or ledger or listed or model:
        if sites > 1:
            print()
        settings, sizes = _site(chosen, patients // sites, spread, ledger, every=listed, model=model)
    if json_file is not None:
        rows = [vars(one) | {"largest_dimension": one.largest_dimension} for one in settings]
        body |= {"settings": rows, "trainable": sizes}
        json_file.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    if csv_file is not None:
        from privacy.planning.settings import to_csv

        csv_file.write_text(to_csv(settings), encoding="utf-8")
    if html_file is not None:
        from privacy.report.interactive import plan_page

        title = (
            f"Ways to spend epsilon {chosen.privacy.target_epsilon:g} at delta {chosen.privacy.delta:g} on "
            f"{patients // sites} patients"
        )
        html_file.write_text(plan_page(settings[0], settings[1:], title), encoding="utf-8")


def _federation(
    config: RunConfig, patients: int, sites: int, honest: int | None, spread: float
) -> dict[str, Any]:
    """Print what is recommended to a federation; returns it for ``--json``."""
    from mmmed.cli.plan_recommendation import recommended, show_recommendation
    from privacy.planning.releases import compare_releases, recommend, recommended_honest
    from privacy.planning.settings import agreeing
    from simulations.working import working

    honest = honest or recommended_honest(sites)
    with working("computing what each way of training together would cost"):
        releases, missing = compare_releases(
            patients=patients,
            sites=sites,
            target_epsilon=config.privacy.target_epsilon,
            delta=config.privacy.delta,
            honest=honest,
            batch_size=config.training.batch_size,
            local_epochs=config.training.local_epochs,
            rounds=config.federation.rounds,
        )
    release = recommend(releases)
    tree = recommended(config, release, patients=patients, sites=sites, honest=honest)
    shared = agreeing(config.training.records_per_patient, spread)
    show_recommendation(
        tree,
        release,
        releases,
        patients=patients,
        sites=sites,
        honest=honest,
        agreeing=shared,
        missing=missing,
    )
    rows = [asdict(one) | {"passes": one.passes, "bears": one.bears(shared)} for one in releases]
    return {"recommended": tree, "releases": rows}


def _site(
    config: RunConfig, patients: int, spread: float, ledger: Path | None, *, every: bool, model: bool
) -> tuple[list[Setting], dict[str, int]]:
    """Print ways to spend one site's budget; returns them, and the trained parameters by trainable set.

    Args:
        config: the run's configuration.
        patients: of the site.
        spread: as `--spread`.
        ledger: the site's, to ask what it admits.
        every: all ways, not only what a screen holds.
        model: also build the model.
    """
    from contextlib import nullcontext

    from mmmed.cli.plan_tables import show_plan, trainable_sizes
    from privacy.planning import plan_training
    from privacy.planning.settings import (
        FEW_RATES,
        FEW_STEPS,
        RATES,
        STEPS,
        alternatives,
        least_admitted_noise,
        setting,
        with_ledger,
    )
    from simulations.working import working

    target, delta = config.privacy.target_epsilon, config.privacy.delta
    with working("computing ways to spend the budget"):
        solved = plan_training(
            patients=patients,
            batch_size=config.training.batch_size,
            local_epochs=config.training.local_epochs,
            rate=config.step_rate,
            rounds=config.planned_rounds,
            target_epsilon=target,
            delta=delta,
        )
        worth = setting(solved.event, delta, patients, config.training.records_per_patient, spread)
        others = alternatives(
            patients=patients,
            target_epsilon=target,
            delta=delta,
            rates=RATES if every else FEW_RATES,
            steps=STEPS if every else FEW_STEPS,
            spread=spread,
        )
    settings, allowed = [worth, *others], None
    with open_ledger(ledger) if ledger else nullcontext() as opened:
        if opened is not None:

            def admits(event: DpSgdEvent) -> bool:
                return opened.admits(event, delta)

            settings = with_ledger(settings, admits, opened.filter_epsilon)
            allowed = (opened.limit, least_admitted_noise(worth.sampling_rate, worth.steps, admits))
    sizes = trainable_sizes(config) if model else {}
    show_plan(config, solved, settings, sizes, allowed, patients)
    return settings, sizes
