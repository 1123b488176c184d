"""One quiet run of `mmmed simulate`'s machinery, for those that need many: the attack's shadow models, a sweep."""

from __future__ import annotations

from pathlib import Path

from mmmed.config import RunConfig
from mmmed.data.manifest import Manifest
from server.run import federate
from server.run_folder import RunFolder
from simulations.grid import InProcessGrid
from simulations.simulate import CLIENT_APP, check_learnt, preflight, site_nodes


def run_trial(config: RunConfig, folder: Path, workers: int) -> tuple[Path, Manifest]:
    """Train `config` in a folder; returns the folder of the final model and the data that it was trained on.

    A folder that holds a part of this run is continued.

    Raises:
        MmmedError, PrivacyError: as `simulations.simulate.start_run`.
    """
    prepared = preflight(config, "inprocess")
    with RunFolder.create_or_open(folder, config) as run:
        nodes = list(site_nodes(run, prepared.manifest).values())
        with InProcessGrid(CLIENT_APP, nodes, workers=min(workers, len(nodes))) as grid:
            model = federate(grid, run, prepared.model)
        check_learnt(run)
    return model, prepared.manifest
