"""A whole run at the server: build the model, run the rounds, save what came out."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from flwr.serverapp import Grid

from mmmed.models import build_model, save_model, trainable_state
from server.events import Event, OnEvent, RoundFinished, ignore
from server.rounds import Rounds
from server.run_folder import RunFolder
from server.spending import SpendingLog


def federate(grid: Grid, folder: RunFolder, on_event: OnEvent = ignore) -> Path:
    """Run (or continue) the run that the folder describes; returns the folder of the final model.

    The caller holds the run folder open. Ctrl-C or a kill leaves it so that the same call continues it.

    Raises:
        ModelError: the configured model cannot be built.
        RunError: too few sites, or a checkpoint that does not fit.
    """
    model = build_model(folder.config)
    initial = {key: value.detach().cpu().float().numpy() for key, value in trainable_state(model).items()}

    spending = SpendingLog(folder)

    def watch(event: Event) -> None:
        if isinstance(event, RoundFinished):
            spending.add(event.record)
            spending.report().write(folder.report)
        on_event(event)

    final = Rounds(grid, folder, watch).run(initial)
    model.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in final.items()}, strict=False)
    partial = folder.path / ".model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    save_model(partial, model, folder.config)
    shutil.rmtree(folder.model, ignore_errors=True)
    partial.rename(folder.model)
    return folder.model
