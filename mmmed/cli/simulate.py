"""``mmmed simulate``, what belongs to it, and ``mmmed evaluate``: runs on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmmed.cli.options import Assignments, ConfigFile, DataFolder, JsonFile, read_config

app = typer.Typer(invoke_without_command=True, subcommand_metavar="[sweep|compare|scenarios]")


@app.callback()
def simulate(
    context: typer.Context,
    config: ConfigFile = None,
    data: DataFolder = None,
    scenario: Annotated[
        str | None,
        typer.Option(
            help="How patients are dealt and how sites behave: a name of `mmmed simulate scenarios`, or a TOML file. "
            "--set scenario.KEY=VALUE sets its keys."
        ),
    ] = None,
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
    given = (config, data, scenario, assignments, rounds, epsilon, seed, out, non_private or None, policy)
    if context.invoked_subcommand is not None:
        if any(value is not None for value in (*given, resume, workers)):
            raise typer.BadParameter(f"give options after {context.invoked_subcommand!r}, not before it")
        return
    from simulations.simulate import resume_run, start_run

    if resume is not None:
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
    from simulations.scenarios import parse_settings, read_scenario

    of_run, of_scenario = parse_settings(assignments or ())
    if of_scenario and scenario is None:
        raise typer.BadParameter("--set scenario.KEY is for a run with a --scenario")
    resolved = read_config(config, of_run, options).config
    chosen = None if scenario is None else read_scenario(scenario, of_scenario)
    start_run(resolved, folder=out, engine=engine, workers=workers, policy=policy, scenario=chosen)


@app.command()
def sweep(
    out: Annotated[Path, typer.Option(help="Folder of the results. A sweep that is there is gone on with.")],
    config: ConfigFile = None,
    data: DataFolder = None,
    scenario: Annotated[
        list[str] | None,
        typer.Option(help="A scenario; repeat to compare several. --set scenario.KEY=... varies its keys."),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value, or several with commas: each is a setting. Repeat."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of each setting: 0..4, or 0,3,7.")] = "0..2",
    workers: Annotated[
        int | None,
        typer.Option(
            help="Runs at once, each in a process; 0 runs them in this one.", show_default="cores", min=0
        ),
    ] = None,
) -> None:
    """Run every combination of settings, scenarios and seeds, and keep one tidy table of all results."""
    import os

    from simulations.sweep import cells_of, parse_seeds
    from simulations.sweep_display import show_sweep

    given = [*(assignments or ()), *([f"data.source={data}"] if data else ())]
    cells = cells_of(config, given, scenario or (), parse_seeds(seeds))
    show_sweep(cells, out, (os.cpu_count() or 1) if workers is None else workers)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of sweeps.")],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("compare.html"),
) -> None:
    """Compare finished runs: means, intervals over seeds, paired tests, curves and cost, on one HTML page."""
    from mmmed.files import write_atomic
    from simulations.compare import check_comparable, read_runs
    from simulations.compare_page import compare_page

    found = read_runs(runs)
    check_comparable(found)
    write_atomic(out, compare_page(found))
    print(out)


@app.command()
def scenarios() -> None:
    """List the scenarios that come with mmmed, each with the command that runs it."""
    from simulations.scenarios import about, scenario_files

    for name, path in scenario_files().items():
        command, shows = about(path)
        print(f"{name}\n  {shows}\n  {command}")


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder, or a model folder.")],
    data: DataFolder = None,
    by: Annotated[
        str,
        typer.Option(help="Also groups of patients: columns such as sex,age_band,scanner, or site."),
    ] = "",
    json_file: JsonFile = None,
) -> None:
    """Evaluate a trained model on held-out studies, beside the site-only guess."""
    from simulations.simulate import evaluate_run

    names = [name.strip() for name in by.split(",") if name.strip()]
    if json_file is not None and not names:
        raise typer.BadParameter("--json has the scores of groups: say which with --by")
    evaluate_run(run, data, names, json_file)
