"""`mmmed simulate`: check everything first, then train across the sites, then say how good and how private."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from client.simulated import (
    POLICY,
    check_site,
    read_trial_policy,
    simulated_manifest,
    site_data,
    site_manifest,
)
from client.trial import try_run
from mmmed.config import RunConfig
from mmmed.config.schema import Scalar
from mmmed.data.image_approvals import waiting_note
from mmmed.data.manifest import Manifest
from mmmed.data.source import locate
from mmmed.errors import ConfigError, RunError
from mmmed.extras import require
from mmmed.files import write_atomic
from mmmed.inference.evaluate import Evaluation, evaluate
from mmmed.inference.sites import check_groups, predict_opened, predict_sites, score_groups
from mmmed.inference.subgroups import groups_json
from mmmed.models import MultimodalModel, load_model
from server.run import federate, first_model
from server.run_folder import RunFolder
from simulations.advice import advice
from simulations.cost import counted
from simulations.display import Display, show_evaluation, show_groups, show_results
from simulations.grid import InProcessGrid
from simulations.pictures import PICTURES, run_pictures
from simulations.ray_engine import run_on_ray
from simulations.scenarios import Scenario
from simulations.scenarios.table import (
    dealt,
    kept_files,
    kept_scenario,
    kept_table,
    node_settings,
    with_table,
)
from simulations.working import working

CLIENT_APP = "client.app:app"
_SCENARIO_APP = "simulations.scenarios.behaviour:app"
ENGINES = ("inprocess", "ray")
_POLICY = "site-policy.toml"  # in the run folder: what its sites keep to, also when it is resumed


def start_run(
    config: RunConfig,
    *,
    folder: Path | None,
    engine: str,
    workers: int | None,
    policy: Path | None = None,
    scenario: Scenario | None = None,
) -> Path:
    """Start a run in a new folder and carry it out to its end; returns the folder.

    Args:
        config: the run's configuration.
        folder: the run's, new or empty; None for one in ``runs`` that is named after the time.
        engine: one of `ENGINES`.
        workers: processes for the sites; None for one a site, at most one a core.
        policy: a policy file that every site keeps to; None allows everything within the run's target.
        scenario: how patients are dealt to the sites, and how these behave; None for the data set's own sites.

    Raises:
        MmmedError, PrivacyError: something of the configuration, the data or the plan cannot work. Nothing has
            been written then.
    """
    if policy is not None:
        read_trial_policy(policy)
    path = folder or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    with dealt(scenario, config) as table:
        with working("trying the run on made-up records, reading the data"):
            prepared = preflight(config, engine, table)
        beside = kept_files(scenario, table)
        if policy is not None:
            beside[_POLICY] = policy.read_bytes()
        with RunFolder.create(path, config, beside) as run:
            _drive(run, prepared, engine, workers)
    return path


def resume_run(folder: Path, *, engine: str, workers: int | None) -> None:
    """Continue a run after its last finished round.

    Raises:
        RunError: the folder holds no run, or is in use.
    """
    with RunFolder.open(folder) as run:
        _drive(run, preflight(run.config, engine, kept_table(run.path), run.path), engine, workers)


@dataclass(frozen=True)
class Prepared:
    """What a run needs, found in order: the model, the table of all sites, the patients that each trains on."""

    model: MultimodalModel
    manifest: Manifest
    patients: Mapping[str, int]


def preflight(
    config: RunConfig, engine: str, table: Path | None = None, folder: Path | None = None
) -> Prepared:
    """Build the model, try it on made-up records, read all data and check that every site can take part.

    Args:
        config: the run's.
        engine: one of `ENGINES`.
        table: of a scenario; None for the data set's own.
        folder: of a run that is gone on with; None for a new one.

    Raises:
        MmmedError, PrivacyError: what is wrong, where, and how to mend it.
    """
    if engine not in ENGINES:
        raise ConfigError(f"--engine must be one of {', '.join(ENGINES)}. Found {engine!r}")
    if engine == "ray":
        require("ray", "--engine ray")
    model = first_model(config, folder, told=print)
    try_run(config)
    manifest = simulated_manifest(config, table)
    if len(manifest.sites) < config.federation.min_sites:
        raise ConfigError(
            f"federation.min_sites is {config.federation.min_sites}, but {manifest.root} has "
            f"{len(manifest.sites)} site(s). Lower it, or check data.site"
        )
    for site, count in manifest.unlabelled.items():
        print(f"{site}: {count} rows without {', '.join(config.task.columns.values())} are left out")
    if manifest.waiting:
        print(waiting_note(manifest.root, manifest.waiting))
    patients = {name: check_site(site_manifest(manifest, name), config) for name in manifest.sites}
    if warning := advice(config, model, patients):
        print(warning)
    return Prepared(model, manifest, patients)


def _drive(run: RunFolder, prepared: Prepared, engine: str, workers: int | None) -> None:
    nodes, model = site_nodes(run, prepared.manifest), prepared.model
    processes = min(len(nodes), os.cpu_count() or 1) if workers is None else workers
    with (
        counted(run.path, whole=engine != "ray"),
        Display(run.config, {name: Path(str(node["state-dir"])) for name, node in nodes.items()}) as display,
    ):
        own = list(nodes.values())
        if engine == "ray":
            run_on_ray(
                lambda grid: federate(grid, run, model, display),
                client_app(run),
                own,
                actors=max(1, processes),
            )
        else:
            with InProcessGrid(client_app(run), own, workers=processes) as grid:
                federate(grid, run, model, display)
    check_learnt(run)
    sites = {name: site_data(site_manifest(prepared.manifest, name), run.config) for name in nodes}
    target, predicted = run.config.task.target(), predict_opened(model.eval(), run.config, sites)
    evaluation = evaluate(target, predicted, seed=run.config.training.seed)
    write_atomic(run.path / "evaluation.json", json.dumps(evaluation.to_dict(), indent=2) + "\n")
    (run.path / PICTURES).mkdir(exist_ok=True)
    for name, drawn in run_pictures(run.config, predicted, run.report / "privacy.json"):
        write_atomic(run.path / PICTURES / name, drawn)
    show_results(run, evaluation, prepared.patients)


def site_nodes(run: RunFolder, manifest: Manifest) -> dict[str, dict[str, Scalar]]:
    """The node configuration of each site: its state folder, and the run's target as its limit."""
    privacy = run.config.privacy
    limit: dict[str, Scalar] = {"limit-epsilon": privacy.target_epsilon, "limit-delta": privacy.delta}
    if (run.path / _POLICY).exists():
        limit |= {POLICY: str((run.path / _POLICY).absolute())}
    scenario, table = kept_scenario(run.path), kept_table(run.path)
    return {
        name: {
            "state-dir": str((run.path / "sites" / name).absolute()),
            **limit,
            **node_settings(scenario, name, table, run.config),
        }
        for name in manifest.sites
    }


def client_app(run: RunFolder) -> str:
    """The ClientApp of a run's sites: that of a scenario's only where it lets sites behave otherwise."""
    scenario = kept_scenario(run.path)
    if scenario is None or not scenario.has_behaviour:
        return CLIENT_APP
    return _SCENARIO_APP


def check_learnt(run: RunFolder) -> None:
    """Raise RunError if no round of a finished run changed the model."""
    if not any(record["changed"] for record in run.rounds()):
        raise RunError(
            f"{run.path}: no round had the good updates of federation.min_sites = {run.config.federation.min_sites} "
            "sites, so nothing was learnt. The sites' logs (sites/*/site.log) say why"
        )


def evaluate_run(
    path: Path, data: str | None, by: Sequence[str] = (), groups_file: Path | None = None
) -> Evaluation:
    """Evaluate the final model of a run folder (or a model folder) on held-out studies, and print it.

    Args:
        path: the folder.
        data: folder of the data set; None for the run's own.
        by: what to make groups of patients by, see `mmmed.inference.sites.score_groups`.
        groups_file: where to write their scores, for a model card; no count is in it.

    Raises:
        RunError, ModelError, DataError: no finished model, or data that do not fit it.
    """
    begun = (path / "config.toml").is_file() and (path / "environment.json").is_file()
    if begun and not (path / "model").is_dir():
        raise RunError(f"{path}: the run has no final model yet. Finish it with --resume {path}")
    with working("predicting held-out studies"):
        model, config = load_model(path)
        if data is None:
            config = with_table(config, kept_table(path))
        root = locate(data or config.data.source)
        check_groups(config, root, by)
        predicted = predict_sites(model, config, root)
        evaluation = evaluate(config.task.target(), predicted, seed=config.training.seed)
    show_evaluation(evaluation)
    if by:
        title = config.task.target().score.title
        groups = score_groups(config, root, predicted, by, config.training.seed)
        show_groups(title, groups)
        if groups_file is not None:
            write_atomic(groups_file, json.dumps(groups_json(title, groups), indent=2) + "\n")
    return evaluation
