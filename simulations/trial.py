"""One quiet run of `mmmed simulate`'s machinery, for those that need many: the attack's shadow models, sweeps."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from mmmed.config import RunConfig
from mmmed.data.manifest import Manifest
from mmmed.errors import RunError
from mmmed.files import write_atomic
from mmmed.inference.evaluate import evaluate
from mmmed.inference.sites import predict_sites
from mmmed.models import load_model
from server.run import federate
from server.run_folder import RunFolder
from simulations.grid import InProcessGrid
from simulations.scenarios import Scenario
from simulations.scenarios.table import dealt, kept_files, kept_table, with_table
from simulations.simulate import check_learnt, client_app, preflight, site_nodes

EVALUATION = "evaluation.json"


def run_trial(
    config: RunConfig, folder: Path, workers: int, scenario: Scenario | None = None
) -> tuple[Path, Manifest]:
    """Train `config` in a folder; returns the folder of the final model and the data that it was trained on.

    A folder that holds a part of this run is continued.

    Raises:
        MmmedError, PrivacyError: as `simulations.simulate.start_run`.
    """
    with dealt(scenario, config) as table:
        prepared = preflight(config, "inprocess", table)
        with RunFolder.create_or_open(folder, config, kept_files(scenario, table)) as run:
            nodes = list(site_nodes(run, prepared.manifest).values())
            with InProcessGrid(client_app(run), nodes, workers=min(workers, len(nodes))) as grid:
                model = federate(grid, run, prepared.model)
            check_learnt(run)
    return model, prepared.manifest


def evaluated_trial(
    config: RunConfig, folder: Path, workers: int, scenario: Scenario | None = None, resamples: int = 0
) -> dict[str, Any]:
    """What ``evaluation.json`` says of a trial; the run is found, continued or done.

    Args:
        config: the run's.
        folder: its own.
        workers: processes that train sites.
        scenario: of its sites; None for the data set's own.
        resamples: for the intervals over patients; with 0 there are none, where seeds show the spread.

    Raises:
        MmmedError, PrivacyError: as `run_trial`.
    """
    kept = folder / EVALUATION
    if not kept.is_file():
        with contextlib.redirect_stdout(io.StringIO()):  # what is left out is the same in every trial
            model_folder, manifest = run_trial(config, folder, workers, scenario)
        model, _ = load_model(model_folder)
        predicted = predict_sites(model, with_table(config, kept_table(folder)), manifest.root)
        evaluation = evaluate(config.task.target(), predicted, seed=config.training.seed, resamples=resamples)
        write_atomic(kept, json.dumps(evaluation.to_dict(), indent=2) + "\n")
    try:
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        found[config.task.target().score.name]["within_site"]["value"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{kept}: not a trial's evaluation: {error!r}. Delete the file to make it anew"
        ) from error
    return found
