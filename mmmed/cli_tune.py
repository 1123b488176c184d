"""`mmmed privacy tune`: find settings, for free on data that are nobody's, accounted on a site's own patients."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mmmed.cli_options import Assignments, ConfigFile
from mmmed.config import Candidate, combinations, parse_vary
from mmmed.errors import ConfigError

SHAPES = {"geometric": 1.0, "logarithmic": 0.0}
_TOO_NOISY = 0.03  # standard error of a score: about what separates good settings


def tune(
    vary: Annotated[
        list[str],
        typer.Option(
            help="section.key=value,value,...: what to try. Repeat; every combination is a setting."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the results. A free sweep that is there is gone on with.")
    ],
    config: ConfigFile = None,
    assignments: Assignments = None,
    public: Annotated[
        bool, typer.Option("--public", help="The data are public or generated: sweep for free.")
    ] = False,
    site: Annotated[
        Path | None,
        typer.Option(
            help="A hospital's site folder: sweep on its patients, accounted and charged as a whole."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Free sweep: runs of each setting.")] = 3,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Free sweep: processes that train sites; 0 trains in this one.", show_default="cores"
        ),
    ] = None,
    trials: Annotated[
        float, typer.Option(min=1, help="At a site: mean of the random number of trials.")
    ] = 10,
    stopping: Annotated[
        str, typer.Option(help=f"At a site: how that number is distributed: {' or '.join(SHAPES)}.")
    ] = "geometric",
) -> None:
    """Try settings: for free on public or generated data, or on a site's patients with the sweep itself charged.

    Free: every setting is a simulated run, with several seeds; vary privacy.target_epsilon too for the front of utility
    against epsilon. At a site: a random number of trials; privacy.target_epsilon and privacy.metrics_epsilon are for
    the whole sweep, and only the best trial is kept.
    """
    candidates = combinations(parse_vary(vary), config, assignments or ())
    if site is not None and public:
        raise typer.BadParameter("--public and --site exclude each other")
    if site is not None:
        _private(site, candidates, trials, stopping, out)
    else:
        _free(candidates, public, seeds, workers, out)


def _free(candidates: Sequence[Candidate], public: bool, seeds: int, workers: int | None, out: Path) -> None:
    from mmmed.data.source import DEMO
    from simulations.tune import described, front, sweep

    sources = sorted({each.config.data.source for each in candidates} - {DEMO})
    if sources and not public:
        raise ConfigError(
            f"data.source is {', '.join(sources)}: a sweep on patients' data spends their privacy. Say --public if "
            "these records are public or generated, or sweep at the site that holds them with --site FOLDER, which "
            "accounts for the whole sweep and charges it to the site's ledger"
        )
    processes = (os.cpu_count() or 1) if workers is None else workers
    outcomes = sweep(candidates, seeds=seeds, out=out, workers=processes, progress=print)
    print(f"\nNot beaten at the same or a smaller epsilon (mean AUROC within sites, {seeds} seeds):")
    for one in front(outcomes):
        low, high = min(one.auroc), max(one.auroc)
        print(f"  epsilon {one.epsilon:g}: {one.mean:.3f} [{low:.3f}, {high:.3f}]  {described(one.settings)}")
    print(f"{out / 'sweep.csv'}\n{out / 'pareto.html'}")


def _private(site: Path, candidates: Sequence[Candidate], trials: float, stopping: str, out: Path) -> None:
    from rich.console import Console

    from client.tuning import open_site, plan_sweep, run_sweep
    from privacy.report import shown

    if stopping not in SHAPES:
        raise ConfigError(f"--stopping must be one of {', '.join(SHAPES)}. Found {stopping!r}")
    console = Console()
    opened = open_site(site, candidates)
    planned = plan_sweep(opened, candidates, trials, SHAPES[stopping])
    noises = [trial.noise_multiplier for trial in planned.training.trials]
    privacy = candidates[0].config.privacy
    console.print(
        f"{len(candidates)} settings, {trials:g} trials on average ({stopping}); the number of trials is drawn now and "
        f"told to nobody. For the whole sweep, at delta {privacy.delta:g}: training patients epsilon "
        f"{privacy.target_epsilon:g} (noise multiplier of a trial {min(noises):.4f} to {max(noises):.4f}), held-out "
        f"patients epsilon {privacy.metrics_epsilon:g} (scores err by about {planned.score_error:.3f})."
    )
    if planned.score_error > _TOO_NOISY:
        console.print(
            "warning: such scores tell only large differences apart. Raise privacy.metrics_epsilon, lower --trials, or "
            "sweep on public data."
        )
    with console.status("charged; sweeping"):
        winner = run_sweep(opened, planned, out)
    console.print(
        f"best: {', '.join(f'{key} = {value}' for key, value in winner.candidate.settings.items())}"
    )
    score = winner.score
    if score is None or score.auroc is None:
        console.print("No trial's score stood out of its noise: the choice is arbitrary.")
    else:
        console.print(
            f"its score: AUROC {score.auroc:.3f} [{score.low:.3f}, {score.high:.3f}]; the best of several noisy scores "
            "is too high on average"
        )
    console.print(
        f"charged: training patients epsilon {shown(winner.epsilon)}, held-out patients epsilon "
        f"{shown(winner.scoring_epsilon)} (RDP, the whole sweep)"
    )
    console.print(f"{out}: the winner's model, settings and the site's signed statement")
