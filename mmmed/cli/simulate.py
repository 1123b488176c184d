"""``mmmed simulate`` and ``mmmed evaluate``: runs on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmmed.cli.options import Assignments, ConfigFile, DataFolder, read_config


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


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder, or a model folder.")],
    data: DataFolder = None,
) -> None:
    """Evaluate a trained model on held-out studies, beside the site-only guess."""
    from simulations.simulate import evaluate_run

    evaluate_run(run, data)
