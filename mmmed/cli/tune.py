"""`mmmed privacy tune`: find settings, for free on data that are nobody's, accounted on a site's own patients."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmmed.cli.options import Assignments, ConfigFile, tell_renamed
from mmmed.errors import ConfigError

if TYPE_CHECKING:
    from mmmed.config import Candidate

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
    from mmmed.config import combinations, parse_vary

    candidates = combinations(parse_vary(vary), config, assignments or ())
    tell_renamed(candidates[0].renamed)
    if site is not None and public:
        raise typer.BadParameter("--public and --site exclude each other")
    if site is not None:
        from client.hospital import Hospital

        with Hospital(site).in_use():
            _private(site, candidates, trials, stopping, out)
    else:
        _free(candidates, public, seeds, workers, out)


def _free(candidates: Sequence[Candidate], public: bool, seeds: int, workers: int | None, out: Path) -> None:
    from mmmed.data.source import GENERATED
    from simulations.tune import EPSILON, described, front, sweep

    sources = sorted({each.config.data.source for each in candidates} - set(GENERATED))
    if sources and not public:
        raise ConfigError(
            f"data.source is {', '.join(sources)}: a sweep on patients' data spends their privacy. Say --public if "
            "these records are public or generated, or sweep at the site that holds them with --site FOLDER, which "
            "accounts for the whole sweep and charges it to the site's ledger"
        )
    processes = (os.cpu_count() or 1) if workers is None else workers
    outcomes = sweep(candidates, seeds=seeds, out=out, workers=processes, progress=print)
    kept = front(outcomes)
    print(
        f"\nBest at each epsilon ({kept[0].score.title} within sites: mean and range of {seeds} seeds; * beats every "
        "smaller epsilon)"
    )
    for level in sorted({one.epsilon for one in outcomes}):
        best = max((one for one in outcomes if one.epsilon == level), key=lambda one: one.merit)
        spread, mark = f"[{min(best.values):.3f}, {max(best.values):.3f}]", "*" if best in kept else " "
        others = {key: value for key, value in best.settings.items() if key != EPSILON}
        print(f"{mark} epsilon {level:g}: {best.mean:.3f} {spread}  {described(others)}")
    print(f"{out / 'sweep.csv'}\n{out / 'pareto.html'}")


def _private(site: Path, candidates: Sequence[Candidate], trials: float, stopping: str, out: Path) -> None:
    from rich.console import Console

    from client.tuning import open_site, plan_sweep, run_sweep
    from privacy.metrics import main_score
    from privacy.report import shown

    if stopping not in SHAPES:
        raise ConfigError(f"--stopping must be one of {', '.join(SHAPES)}. Found {stopping!r}")
    console = Console()
    opened = open_site(site, candidates)
    planned = plan_sweep(opened, candidates, trials, SHAPES[stopping])
    noises = sorted({f"{trial.noise_multiplier:.4f}" for trial in planned.training.trials}, key=float)
    privacy, noise = candidates[0].config.privacy, " to ".join(dict.fromkeys((noises[0], noises[-1])))
    console.print(
        f"{len(candidates)} settings, {trials:g} trials on average ({stopping}); the number of trials is drawn now and "
        f"told to nobody. For the whole sweep, at delta {privacy.delta:g}: training patients epsilon "
        f"{privacy.target_epsilon:g} (noise multiplier of a trial {noise}), held-out patients epsilon "
        f"{privacy.metrics_epsilon:g} (scores err by about {planned.score_error:.3f})."
    )
    if planned.score_error > _TOO_NOISY:
        console.print(
            "warning: such scores tell only large differences apart. Raise privacy.metrics_epsilon, lower --trials, or "
            "sweep on public data."
        )
    try:
        with console.status("sweeping"):
            winner = run_sweep(opened, planned, out)
    except KeyboardInterrupt:
        console.print("interrupted: the sweep stays charged in full, as `mmmed privacy ledger show` says")
        raise
    console.print(
        f"best: {', '.join(f'{key} = {value}' for key, value in winner.candidate.settings.items())}"
    )
    score = winner.score
    told = None if score is None else main_score(score.to_json())
    if told is None:
        console.print("No trial's score stood out of its noise: the choice is arbitrary.")
    else:
        console.print(
            f"its score: {told[0]} {told[1]:.3f} [{told[2]:.3f}, {told[3]:.3f}]; the best of several noisy scores "
            "is too good on average"
        )
    console.print(
        f"charged: training patients epsilon {shown(winner.epsilon)}, held-out patients epsilon "
        f"{shown(winner.scoring_epsilon)} (RDP, the whole sweep)"
    )
    console.print(
        f"{out}: the winner's model, settings and the site's signed statements. The settings were found at a trial's "
        f"noise: a run with them wants epsilon {shown(winner.trial_epsilon)}, as the model's config.toml says"
    )
