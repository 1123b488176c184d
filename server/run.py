"""A whole run at the server: run the rounds, save what came out."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from flwr.serverapp import Grid

from mmmed.config import RunConfig
from mmmed.errors import RunError, WeightsDiffer
from mmmed.files import write_atomic
from mmmed.models import (
    MultimodalModel,
    build_model,
    check_frozen,
    frozen_digests,
    save_model,
    start_from,
    trainable_state,
)
from server.checkpoint import load_checkpoint
from server.events import Event, OnEvent, RoundFinished, ignore
from server.loop import Rounds, is_milestone
from server.privacy_report import RunReport
from server.roster import Roster
from server.run_folder import CHECKPOINTS, RunFolder
from server.waits import Waits

log = logging.getLogger(__name__)


def first_model(
    config: RunConfig, folder: Path | None = None, told: Callable[[str], None] = log.info
) -> MultimodalModel:
    """`build_model`, which begins from `model.start` unless the run has a checkpoint, which it goes on from.

    Args:
        config: the run's.
        folder: the run's, which may not be there yet; None for a new run.
        told: is given what the model begins from, in a sentence.

    Raises:
        ModelError: see `build_model` and `start_from`.
        RunError: the checkpoint is damaged.
    """
    model, start = build_model(config), config.model.start
    if start and (folder is None or load_checkpoint(folder / CHECKPOINTS) is None):
        told(start_from(model, Path(start)))
    return model


def federate(
    grid: Grid,
    folder: RunFolder,
    model: MultimodalModel,
    on_event: OnEvent = ignore,
    roster: Roster | None = None,
) -> Path:
    """Run (or continue) the run that the folder describes; returns the folder of the final model.

    Ctrl-C or a kill leaves the folder so that the same call continues it.

    Args:
        grid: where the sites are.
        folder: the run's, held open by the caller.
        model: `first_model` of the folder's configuration; the caller builds it before it makes the folder, so that
            what cannot be built leaves nothing behind. Changed in place.
        on_event: called with what happens.
        roster: whose name is whose; None where nobody admits sites.

    Raises:
        RunError: too few sites, a checkpoint that does not fit, or other frozen weights than the run began with.
    """
    frozen = frozen_digests(model, folder.config)
    _keep_frozen(folder, frozen)
    initial = {key: value.detach().cpu().float().numpy() for key, value in trainable_state(model).items()}

    report: RunReport | None = None
    waits = Waits(folder.path)

    def watch(event: Event) -> None:
        nonlocal report
        if isinstance(event, RoundFinished):
            if report is None:
                report = RunReport(folder)  # not before: a resumed run may have forgotten a round
            else:
                report.add(event.record)
            if is_milestone(folder.config.federation, event.round):
                report.write()
        waits.follow(event)
        on_event(event)

    try:
        final = Rounds(grid, folder, watch, frozen, roster).run(initial)
    finally:
        if report is not None:
            report.write_if_behind()
    if report is None:
        RunReport(folder).write_if_behind()
    model.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in final.items()}, strict=False)
    partial = folder.path / ".model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    save_model(partial, model, folder.config)
    shutil.rmtree(folder.model, ignore_errors=True)
    partial.rename(folder.model)
    return folder.model


def _keep_frozen(folder: RunFolder, frozen: dict[str, str]) -> None:
    """Note the digests of what is not trained; a run that began with others would go on with another encoder."""
    path = folder.path / "frozen.json"
    if not path.exists():
        write_atomic(path, json.dumps(frozen, indent=2) + "\n")
        return
    try:
        check_frozen(frozen, json.loads(path.read_text(encoding="utf-8")), folder.config)
    except (OSError, ValueError, AttributeError, WeightsDiffer) as error:
        raise RunError(f"{path}: the run cannot go on: {error}") from error
