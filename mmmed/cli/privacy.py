"""``mmmed privacy ...``: the privacy officer's commands."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmmed.cli import ledger, plan, policy, tune
from mmmed.cli.options import Assignments, ConfigFile, JsonFile, read_config, read_json

if TYPE_CHECKING:
    from mmmed.config import RunConfig
    from privacy.accounting import DpSgdEvent

app = typer.Typer(help="Plan a privacy budget, read and check what was spent.", no_args_is_help=True)
app.add_typer(ledger.app, name="ledger")
app.add_typer(policy.app, name="policy")
app.command()(plan.plan)
app.command()(tune.tune)


@app.command()
def verify(
    report: Annotated[Path, typer.Argument(help="privacy.json of a run.")],
    keys: Annotated[
        Path | None, typer.Option(help="JSON file: site name to its public key in hexadecimal.")
    ] = None,
) -> None:
    """Check every signature and recompute every number of a privacy report.

    Exit 1 on any finding; 3 if there is none, but the sites did not sign up to the run's end.
    """
    from privacy.report import unfinished, verify_report
    from privacy.report.unchecked import marks
    from simulations.working import working

    body = read_json(report)
    known = _keys(keys) if keys else None
    with working("computing every number again"):
        findings = verify_report(body, known)
    for finding in findings:
        print(finding)
    if findings:
        raise typer.Exit(1)
    print(f"{report}: signed as stated, and every number follows from the signed events")
    print(f"not checked, the coordinator's own word: {', '.join(sorted(marks(body)))}")
    if opened := unfinished(body):
        print("not shown to be the report of a whole run:", *opened, sep="\n  ")
        raise typer.Exit(3)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    untuned: Annotated[
        bool, typer.Option("--untuned", help="State that no hyperparameter was chosen on these patients.")
    ] = False,
    tuned_on_public: Annotated[
        bool, typer.Option("--tuned-on-public", help="State that settings were chosen on public data alone.")
    ] = False,
    sweep_files: Annotated[
        list[Path] | None,
        typer.Option(
            "--tuned-by", help="sweep.json of a site's own sweep, by which settings were chosen; repeat."
        ),
    ] = None,
    audit_files: Annotated[
        list[Path] | None,
        typer.Option("--audit", help="Result of an audit; repeat.", show_default="the run folder's"),
    ] = None,
    attack_file: Annotated[
        Path | None, typer.Option("--attack", help="Result of an attack.", show_default="the run folder's")
    ] = None,
) -> None:
    """Write a run's privacy report anew: privacy.json, which `mmmed privacy verify` checks, and privacy.html.

    The run itself writes it after each round; this adds what the options say, and audits and attacks made since.
    """
    from privacy.report import sweep_statements, write_report
    from server.privacy_report import RunReport
    from server.run_folder import RunFolder
    from simulations.working import working

    tunings = {"none": untuned, "public": tuned_on_public, "accounted": bool(sweep_files)}
    chosen = [name for name, said in tunings.items() if said]
    if len(chosen) > 1:
        raise typer.BadParameter("--untuned, --tuned-on-public and --tuned-by exclude each other")
    with RunFolder.open(run) as folder, working("computing the report"):
        body = RunReport(folder).body(
            tuning=chosen[0] if chosen else "unknown",
            sweeps=[
                statement for file in sweep_files or () for statement in sweep_statements(read_json(file))
            ],
            audits=[read_json(file) for file in audit_files] if audit_files else None,
            attack=None if attack_file is None else read_json(attack_file),
        )
        written = write_report(body, folder.report)
    for path in written:
        print(path)


@app.command()
def audit(
    run: Annotated[
        Path | None, typer.Argument(help="Run folder, whose settings and mechanism are audited.")
    ] = None,
    site: Annotated[
        str | None, typer.Option(help="Of a run: whose mechanism.", show_default="the costliest")
    ] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    patients: Annotated[
        int | None,
        typer.Option(
            min=1, help="Without a run: patients of the site.", show_default="4 x training.batch_size"
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="In under a minute, with weaker bounds.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Test on made-up patients that the private step does what the accountant is told. Exit 1 on a violation.

    It runs the model, step, sampler and batches of the configuration; it reads no patient and costs no budget.
    """
    from client.audit import run_subject
    from mmmed.files import write_atomic
    from privacy.audit import audit as examine
    from simulations.working import working

    if run is not None:
        if config or assignments or patients:
            raise typer.BadParameter("a run has its own configuration: give no --config, --set or --patients")
        chosen, event = _mechanism_of(run, site)
    else:
        chosen = read_config(config, assignments).config
        event = _planned(chosen, patients)
    with working("testing the private step on made-up patients"), run_subject(chosen, event) as subject:
        result = examine(subject, quick=quick)
    sys.stdout.write(result.to_text())
    text = json.dumps(result.to_json(), indent=2, allow_nan=False) + "\n"
    for file in (json_file, run and run / "report" / "audit.json"):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, text)
    if not result.passed:
        raise typer.Exit(1)


@app.command()
def attack(
    run: Annotated[Path, typer.Argument(help="Run folder, whose final model is attacked.")],
    shadows: Annotated[
        int, typer.Option(min=2, help="Shadow models to train; each costs what the run cost.")
    ] = 8,
    public: Annotated[bool, typer.Option("--public", help="The run's data are public or generated.")] = False,
    own: Annotated[
        bool, typer.Option("--own", help="The data are this site's own, and the result stays here.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that train sites; 0 trains in this one.", show_default="cores"),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Attack a run's model as an expert would: who took part? Exit 1 if that beats the promised bound.

    The likelihood-ratio attack (LiRA) with shadow models that are trained as the run was, on the same records.
    """
    from rich.progress import Progress

    from mmmed.files import write_atomic
    from server.run_folder import RunFolder
    from simulations.attack import attack_run

    with RunFolder.open(run) as folder:
        shown = _is_public(folder.config, public, own, "trains shadow models without accounting for them")
    with Progress(transient=True) as bar:
        task = bar.add_task("shadow models", total=shadows)
        result = attack_run(
            run,
            shadows=shadows,
            workers=_processes(workers),
            progress=lambda done, of: bar.update(task, completed=done, total=of),
        )
    sys.stdout.write(result.to_text())
    text = json.dumps(result.to_json(), indent=2, allow_nan=False) + "\n"
    for file in (json_file, run / "report" / "attack.json" if shown else None):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, text)
    if not result.passed:
        raise typer.Exit(1)


def _keys(path: Path) -> dict[str, str]:
    from privacy.errors import ReportError

    keys = read_json(path)
    if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys.values()):
        raise ReportError(
            f'{path}: expected {{"SITE": "public key in hexadecimal", ...}}. Found something else.'
        )
    return keys


def _is_public(config: RunConfig, public: bool, own: bool, what: str) -> bool:
    """Whether the result may be shown to anybody: generated data, or data that the user says are public.

    Raises:
        ConfigError: the data may be private, and the user has not said whose they are.
    """
    from mmmed.data.source import GENERATED
    from mmmed.errors import ConfigError

    if config.data.source in GENERATED or public:
        return True
    if not own:
        raise ConfigError(
            f"data.source is {config.data.source}, and this {what}. Say --public if these records are public or "
            "generated, or --own if they are your own site's and the result stays there"
        )
    return False


def _processes(workers: int | None) -> int:
    return (os.cpu_count() or 1) if workers is None else workers


def _mechanism_of(run: Path, site: str | None) -> tuple[RunConfig, DpSgdEvent]:
    """A run's configuration and the plan of one site, which the site signed."""
    from mmmed.errors import RunError
    from privacy.report import read_statement
    from server.privacy_report import signed_statements
    from server.run_folder import RunFolder

    with RunFolder.open(run) as folder:
        stated = {name: read_statement(value) for name, value in signed_statements(folder).items()}
        if not stated:
            raise RunError(f"{run}: no site has stated its mechanism, so there is nothing to audit")
        if site is not None and site not in stated:
            raise RunError(f"{run}: no statement of site {site!r}. Its sites are {', '.join(sorted(stated))}")
        name = site or max(stated, key=lambda one: stated[one].epsilon)
        return folder.config, stated[name].mechanism


def _planned(config: RunConfig, patients: int | None) -> DpSgdEvent:
    """The mechanism that a site with this number of patients would plan."""
    from mmmed.errors import ConfigError
    from privacy.planning import plan_training

    if not config.privacy.enabled:
        raise ConfigError("privacy.enabled is false: without privacy there is nothing to audit")
    training = config.training
    return plan_training(
        patients=patients or 4 * training.batch_size,
        batch_size=training.batch_size,
        local_epochs=training.local_epochs,
        rate=config.step_rate,
        rounds=config.planned_rounds,
        target_epsilon=config.privacy.target_epsilon,
        delta=config.privacy.delta,
    ).event
