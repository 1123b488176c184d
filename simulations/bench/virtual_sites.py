"""Whole runs with many virtual sites in one process: CPU time and peak memory, imports and all, beside the aims.

Every site is one of `client.app`: it reads its patients, takes one step without privacy (no noise is drawn, nothing is
charged, no epsilon planned), keeps its answer, and scores its held-out patients each round. Patients are made up, eight
a site, of two numbers each. What the model holds beside the layer that reads these is the fusion, as wide as the size
asks for. The server is that of any run.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from mmmed.config import RunConfig, from_flat
from simulations.bench.measure import Row, measure

_AIMS = {(1000, 1.0, 3): (20, 600), (100, 50.0, 3): (25, 1000), (10_000, 0.01, 3): (60, None)}
_PATIENTS, _HELD_OUT = 8, 2  # of a site; of each, half are of one label
_SQUARES = 8  # parameters of one block of attention, in squares of the width


def rows(sites: list[int], sizes: list[float], rounds: int) -> list[Row]:
    """One row a number of sites and size of the model in MB, each measured in a process of its own."""
    found: list[Row] = []
    for mb in sizes:
        for count in sites:
            here = [sys.executable, "-W", "ignore", "-m", "simulations.bench.virtual_sites"]
            one = measure([*here, str(count), str(mb), str(rounds)], os.environ | {"OMP_NUM_THREADS": "1"})
            cpu_s, peak_mb = _AIMS.get((count, mb, rounds), (None, None))
            found.append(
                {
                    "sites": count, "model_mb": one.output["model_mb"], "rounds": rounds,
                    "cpu_s": round(one.cpu_s, 1), "at most cpu_s": cpu_s or "",
                    "peak_mb": round(one.peak_mb), "at most mb": peak_mb or "",
                    "ms a message": round(1000 * one.output["rounds_cpu_s"] / (2 * rounds * count), 2),
                }
            )  # fmt: skip
    return found


def virtual_run(folder: Path, sites: int, mb: float, rounds: int, **more: Any) -> RunConfig:
    """Write the table of so many virtual sites into a folder; returns the configuration of their run.

    Args:
        folder: becomes the data source.
        sites: how many.
        mb: size of the model's trainable parameters, 1e6 bytes, nearly.
        rounds: of the run.
        more: keys by their dotted names, over those set here.
    """
    _write_table(folder, sites)
    return from_flat(
        {
            "data.source": str(folder), "data.study": "", "data.fold": "fold", "data.test_fold": 1,
            "data.image": "", "data.text": "", "data.numbers": {"low": [0, 1], "high": [0, 1]},
            "task.label": "label", "task.classes": ["0", "1"],
            "model.fusion.kind": "attention", "model.fusion.width": _width(mb),
            "training.batch_size": 6, "training.local_epochs": 1.0, "training.optimizer": "sgd",
            "privacy.enabled": False, "federation.rounds": rounds, "federation.min_sites": sites,
        }
        | more
    )  # fmt: skip


def _write_table(folder: Path, sites: int) -> None:
    lines = ["patient_id,site,fold,low,high,label"]
    for site in range(sites):
        for number in range(_PATIENTS):
            label, name = number % 2, f"p{site}-{number}"
            low, high = (site % 17 + number) / 25, 1 - label / 2 + site % 5 / 10
            lines.append(f"{name},site-{site:05},{int(number < _HELD_OUT)},{low},{high},{label}")
    (folder / "data.csv").write_text("\n".join(lines) + "\n")


def _width(mb: float) -> int:
    return min(2048, max(8, 4 * round(math.sqrt(mb * 1e6 / 4 / _SQUARES) / 4)))


def _run(sites: int, mb: float, rounds: int) -> dict[str, float]:
    import torch

    from client.simulated import simulated_manifest
    from mmmed.models import trainable_state
    from server.run import federate, first_model
    from server.run_folder import RunFolder
    from simulations.grid import InProcessGrid
    from simulations.simulate import client_app, site_nodes

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        config = virtual_run(home, sites, mb, rounds)
        model = first_model(config)
        size = 4e-6 * sum(value.numel() for value in trainable_state(model).values())
        with RunFolder.create(home / "run", config) as run:
            own = list(site_nodes(run, simulated_manifest(config)).values())
            before = os.times()
            with InProcessGrid(client_app(run), own) as grid:
                federate(grid, run, model)
            after = os.times()
            refused = [one for line in run.rounds() for one in line["train"] if "refused" in one]
        if refused:
            raise SystemExit(f"{len(refused)} answers were refused, the first: {refused[0]['refused']}")
    spent = after.user + after.system - before.user - before.system
    return {"model_mb": round(size, 3), "rounds_cpu_s": round(spent, 2)}


if __name__ == "__main__":
    print(json.dumps(_run(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))))
