"""The model that a run would have had, had nothing disturbed it.

A site keeps what it released and answers the same request with the same update. So the server's rounds can be run
again in this process, with no network, process or fault between them and the sites, from the same first model: whoever
took part in a round answers it from what it kept, at no cost. A model that differs by one bit from a disturbed run's
is a request that no site has an answer to.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from client.gate import SITE_DIR
from mmmed.models import build_model, frozen_digests, trainable_state
from server.checkpoint import Arrays, load_checkpoint
from server.events import Event, RoundFinished
from server.loop import Rounds
from server.run_folder import RunFolder
from simulations.grid import InProcessGrid
from simulations.loopback.coordinator import RunHandle
from simulations.loopback.hospital import LiveHospital


class _AllRounds(Exception):
    """Ends the repeated run once it has as many rounds as the original."""


class _WhoTookPart(InProcessGrid):
    """A grid in which a hospital is present only in the rounds in which its update was used."""

    def __init__(self, sites: Sequence[LiveHospital], records: Sequence[Mapping[str, Any]]) -> None:
        super().__init__("client.app:app", [{SITE_DIR: str(site.path)} for site in sites])
        self._names = dict(zip(super().get_node_ids(), [site.name for site in sites], strict=True))
        self._took_part = [
            {line["site"] for line in record["train"] if "refused" not in line} for record in records
        ]
        self._done = 0

    def get_node_ids(self) -> list[int]:
        return [node for node, name in self._names.items() if name in self._took_part[self._done]]

    def follow(self, event: Event) -> None:
        """Count the rounds.

        Raises:
            _AllRounds: the last is done; a run that was stopped had fewer than its configuration says.
        """
        if isinstance(event, RoundFinished):
            self._done += 1
            if self._done == len(self._took_part):
                raise _AllRounds


def undisturbed(
    run: RunHandle, sites: Sequence[LiveHospital], records: Sequence[Mapping[str, Any]]
) -> Arrays:
    """The trainable parameters, by name, after the same rounds (`records`) run again without a fault."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "runs" / run.name
        path.mkdir(parents=True)
        for name in ("config.toml", "environment.json"):
            shutil.copy(run.folder / name, path / name)
        with RunFolder.open(path) as again, _WhoTookPart(sites, records) as grid:
            model = build_model(again.config)
            initial = {key: value.detach().float().numpy() for key, value in trainable_state(model).items()}
            rounds = Rounds(grid, again, grid.follow, frozen_digests(model, again.config))
            with contextlib.suppress(_AllRounds):
                rounds.run(initial)
            last = load_checkpoint(again.checkpoints)
            assert last is not None and last.round == len(records)
            return last.model


def equals_undisturbed(run: RunHandle, sites: Sequence[LiveHospital]) -> bool:
    """Whether an ended run's model equals, bit by bit, that of `undisturbed`, which must charge no ledger."""
    before = [site.charged(run.run_id) for site in sites]
    last = load_checkpoint(run.folder / "checkpoints")
    if last is None:
        return False
    expected = undisturbed(run, sites, [*run.rounds()[: last.round - 1], last.record])
    return (
        [site.charged(run.run_id) for site in sites] == before
        and last.model.keys() == expected.keys()
        and all(np.array_equal(last.model[key], value) for key, value in expected.items())
    )
