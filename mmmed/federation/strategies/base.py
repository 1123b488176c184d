"""The two halves of a strategy: what it does at the server, and what it does at a site.

A strategy is one file with both. What the halves send each other beside the model and the update: tensors from the
server with a training request, numbers from the site with its update.

The site's half is given the parameters, what the server sent and the update that the site releases. None of these
depends on a record in another way than the released update does, so what a strategy computes is post-processing: it
costs no privacy (Dwork and Roth 2014, proposition 2.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch

from mmmed.federation.updates import Arrays, SiteUpdate

if TYPE_CHECKING:
    from mmmed.config import RunConfig

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Combined:
    """A round's updates, once there are enough of them.

    Attributes:
        number: the round, from 1.
        model: the global model that the sites started from.
        update: what the aggregation rule made of the updates; keys and shapes of `model`.
        updates: the single updates that count.
        asked: how many sites were asked.
    """

    number: int
    model: Arrays
    update: Arrays
    updates: Sequence[SiteUpdate]
    asked: int


class AtServer:
    """The server's half; one object lasts for a run.

    Args:
        section: the strategy's section of the configuration.
        run: the whole configuration.
        initial: the trainable parameters before round 1, float32; their order is that of every model.
    """

    def __init__(self, section: Any, run: RunConfig, initial: Arrays) -> None:
        self.section, self.run, self.keys = section, run, list(initial)

    def extras(self) -> dict[str, Arrays]:
        """Tensors that go with every training request of the next round, by name (not "model")."""
        return {}

    def accepts(self, metrics: Mapping[str, float]) -> bool:
        """Whether the numbers of a training reply are what `AtSite.finish` tells; the site is not trusted."""
        return True

    def step(self, combined: Combined) -> Arrays:
        """The next global model, float32, with the keys and shapes of the one before."""
        raise NotImplementedError

    def state(self) -> dict[str, Arrays]:
        """What the next round needs beside the model, by names of the strategy's own, for the checkpoint."""
        return {}

    def restore(self, state: Mapping[str, Arrays]) -> None:
        """Put the `state` of an earlier process back; it may hold what others remember, by other names."""


@dataclass(frozen=True)
class SiteRound:
    """One training request, as a strategy sees it at a site.

    Attributes:
        run: the whole configuration.
        number: the round, from 1; the same round may be asked again.
        folder: where the site keeps what outlasts a round of this run.
        model: the parameters as they came, float32, on the CPU.
        extras: what the server sent beside them, by the names in `AtSite.wants`; not trusted.
    """

    run: RunConfig
    number: int
    folder: Path
    model: Tensors
    extras: Mapping[str, Tensors]


class AtSite:
    """The site's half; one object lasts for a training request. This one does nothing.

    Attributes:
        wants: names of the tensors that it needs from `AtServer.extras`.

    Raises:
        ConfigError: what the server sent does not fit the model. Nothing has been charged by then.
    """

    wants: ClassVar[tuple[str, ...]] = ()

    def __init__(self, section: Any, about: SiteRound) -> None:
        self.section, self.about = section, about

    def correct(self, parameters: Tensors) -> None:
        """Move the parameters, in place, after a local step. Gradients are off."""

    def finish(self, update: Tensors, steps: int) -> dict[str, float]:
        """Keep what later rounds need; return the numbers to tell the server.

        Args:
            update: what the site releases, as the server will read it.
            steps: local steps that were charged.
        """
        return {}


class Halves(NamedTuple):
    """The code of a strategy for the server and for a site."""

    server: type[AtServer]
    site: type[AtSite] = AtSite
