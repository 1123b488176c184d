"""The model that a run would have had, had nothing disturbed it.

A site keeps what it released and answers the same request with the same update. So the server's rounds can be run
again in this process, with no network, process or fault between them and the sites, from the same first model: whoever
took part in a round answers it from what it kept, at no cost. A model that differs by one bit from a disturbed run's
is a request that no site has an answer to.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from client.node import SITE_DIR
from mmmed.models import build_model, frozen_digests, trainable_state
from server.checkpoint import Arrays, load_checkpoint
from server.events import ignore
from server.rounds import Rounds
from server.run_folder import RunFolder
from simulations.grid import InProcessGrid
from simulations.loopback.coordinator import RunHandle
from simulations.loopback.hospital import LiveHospital


class _WhoTookPart(InProcessGrid):
    """The hospitals, each there in those rounds alone whose update of it was used."""

    def __init__(self, sites: Sequence[LiveHospital], run: RunHandle, again: RunFolder) -> None:
        super().__init__("client.app:app", [{SITE_DIR: str(site.path)} for site in sites])
        self._names = dict(zip(super().get_node_ids(), [site.name for site in sites], strict=True))
        self._again = again
        self._took_part = [
            {line["site"] for line in record["train"] if "refused" not in line} for record in run.rounds()
        ]

    def get_node_ids(self) -> list[int]:
        now = min(len(self._again.rounds()), len(self._took_part) - 1)
        return [node for node, name in self._names.items() if name in self._took_part[now]]


def undisturbed(run: RunHandle, sites: Sequence[LiveHospital]) -> Arrays:
    """The trainable parameters, by name, after the last round of an undisturbed run of the same updates."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "runs" / run.name
        path.mkdir(parents=True)
        for name in ("config.toml", "environment.json"):
            shutil.copy(run.folder / name, path / name)
        with RunFolder.open(path) as again, _WhoTookPart(sites, run, again) as grid:
            model = build_model(again.config)
            initial = {key: value.detach().float().numpy() for key, value in trainable_state(model).items()}
            return Rounds(grid, again, ignore, frozen_digests(model, again.config)).run(initial)


def equals_undisturbed(run: RunHandle, sites: Sequence[LiveHospital]) -> bool:
    """Whether a finished run's model is that of an undisturbed one, bit by bit, and asking so charged nobody."""
    before = [site.charged(run.run_id) for site in sites]
    expected = undisturbed(run, sites)
    last = load_checkpoint(run.folder / "checkpoints")
    return (
        last is not None
        and last.round == len(run.rounds())
        and [site.charged(run.run_id) for site in sites] == before
        and last.model.keys() == expected.keys()
        and all(np.array_equal(last.model[key], value) for key, value in expected.items())
    )
